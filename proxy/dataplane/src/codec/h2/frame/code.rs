//! Error codes (RFC 9113 section 7), in RST_STREAM and GOAWAY.

use std::fmt;

/// An error code. Unknown codes are kept as they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(in super::super) struct Code(u32);

macro_rules! codes {
    ($($name:ident = $value:literal;)*) => {
        #[allow(dead_code, reason = "the list is complete")]
        impl Code {
            $(pub(in super::super) const $name: Self = Self($value);)*

            /// Returns the name of a known code.
            fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    NO_ERROR = 0x0;
    PROTOCOL_ERROR = 0x1;
    INTERNAL_ERROR = 0x2;
    FLOW_CONTROL_ERROR = 0x3;
    SETTINGS_TIMEOUT = 0x4;
    STREAM_CLOSED = 0x5;
    FRAME_SIZE_ERROR = 0x6;
    REFUSED_STREAM = 0x7;
    CANCEL = 0x8;
    COMPRESSION_ERROR = 0x9;
    CONNECT_ERROR = 0xa;
    ENHANCE_YOUR_CALM = 0xb;
    INADEQUATE_SECURITY = 0xc;
    HTTP_1_1_REQUIRED = 0xd;
}

impl From<u32> for Code {
    fn from(code: u32) -> Self {
        Self(code)
    }
}

impl From<Code> for u32 {
    fn from(code: Code) -> Self {
        code.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_the_name_and_number_of_the_standard() {
        for (code, number, name) in [
            (Code::NO_ERROR, 0, "NO_ERROR"),
            (Code::REFUSED_STREAM, 7, "REFUSED_STREAM"),
            (Code::HTTP_1_1_REQUIRED, 13, "HTTP_1_1_REQUIRED"),
            (Code::from(0xff), 255, "0xff"),
        ] {
            assert_eq!((u32::from(code), code.to_string().as_str()), (number, name));
        }
    }
}
