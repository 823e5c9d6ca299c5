//! Passes sockets to another process of `outrigger run`, over a Unix socket that becomes its stdin (unix(7), `SCM_RIGHTS`).
//!
//! The supervisor keeps its end open. So the process learns that the supervisor has ended, however that happened.

use std::io::{self, IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, sendmsg,
};

/// The maximum number of sockets: those of both ports and both IP families, and the one that owns the redirection.
const MAX_SOCKETS: usize = 7;
const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_SOCKETS));

/// Sends at most [`MAX_SOCKETS`]. Returns the supervisor's end, and the stdin of the process, where they wait.
pub(super) fn send(sockets: &[BorrowedFd<'_>]) -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("too many sockets"));
    }
    sendmsg(&ours, &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
    Ok((ours, theirs.into()))
}

/// Receives the sockets from stdin.
pub(super) fn receive() -> io::Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(io::stdin(), &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            sockets.extend(passed);
        }
    }
    Ok(sockets)
}

/// Returns true if the supervisor has ended.
pub(super) fn is_orphan() -> bool {
    let mut byte = [0];
    matches!(recv(io::stdin(), &mut byte, RecvFlags::DONTWAIT), Ok((0, _)))
}

/// Waits until the supervisor has ended, or has closed its end.
pub(super) fn wait_for_end() {
    // An error is an end, too.
    let _ = io::stdin().read_to_end(&mut Vec::new());
}
