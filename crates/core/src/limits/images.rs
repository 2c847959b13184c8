//! Images, and how they come here.

/// Bytes of an archive of images that is imported.
pub const IMAGE_ARCHIVE_MAX_BYTES: u64 = 32 << 30;
/// Commands of one build.
pub const BUILD_STEPS_MAX: usize = 100;
/// Files of one build.
pub const BUILD_FILES_MAX: usize = 100;
/// Images that are pulled, imported or built at a time.
pub const IMAGE_JOBS_MAX: usize = 4;
/// Images that are pulled for templates at a time.
pub const TEMPLATE_PULLS_MAX: usize = 2;
