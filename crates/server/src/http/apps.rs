//! Apps.

mod runs;

pub(super) fn router() -> super::Routes {
    runs::router()
}
