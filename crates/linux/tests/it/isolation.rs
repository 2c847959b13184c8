//! What can be seen and done from inside.
