//! The path of a request, once, for every protocol.
//!
//! [`serve::serve`] is the whole of it; the other files are its stages in the order in which they are met: [`admit`] finds
//! the operation, [`gather`] holds a body for the policies that want it, [`forward`] speaks to the upstream, [`respond`] sends what
//! came back, [`tunnel`] carries what came back as a WebSocket, [`watch`] ends what lasts longer than it may,
//! [`answer`] speaks where the upstream does not. What is different for
//! calls of gRPC stands in [`calls`].

pub mod admit;
pub mod answer;
pub mod calls;
pub mod exchange;
pub mod fail;
pub mod forward;
pub mod gather;
pub mod respond;
pub mod serve;
pub mod tunnel;
pub mod watch;
pub mod whence;
