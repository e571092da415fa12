//! Network namespaces: made, pinned under the state directory, removed.
//!
//! Invariant: a namespace of ours is one pinned at our path; nothing else is touched. Knows nothing of
//! containers but the name it is given.
