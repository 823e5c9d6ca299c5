//! Two connections wired in memory, and one connection against frames made by hand.

mod support;
mod messages;
mod violations;
mod windows;
mod floods;
mod ends;
mod random;
