//! Every limit of the product: its name, its unit and its value, in this one place.
//!
//! Whoever refuses something because of a limit names the limit in the error. Which file a limit lies in says what it is about and is
//! nobody else's business: all of them are `limits::NAME`.

mod access;
mod credentials;
mod files;
mod functions;
mod handlers;
mod http;
mod images;
mod items;
mod jobs;
mod names;
mod previews;
mod reach;
mod sandboxes;
mod scripts;
mod webhooks;

pub use access::*;
pub use credentials::*;
pub use files::*;
pub use functions::*;
pub use handlers::*;
pub use http::*;
pub use images::*;
pub use items::*;
pub use jobs::*;
pub use names::*;
pub use previews::*;
pub use reach::*;
pub use sandboxes::*;
pub use scripts::*;
pub use webhooks::*;
