//! What glibc's allocator keeps of memory that was given back to it.
//!
//! A process that waits most of its life keeps the high water of its busiest moment otherwise. Other C libraries keep
//! little, and there is nothing to do.

/// Returns freed pages to the kernel, which glibc otherwise keeps below 128 KiB: a third of what a shim may use.
pub fn trim() {
    #[allow(unsafe_code, reason = "glibc's malloc_trim takes a number and touches only the allocator's own free lists")]
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Has all threads share two pools instead of one a thread (`M_ARENA_MAX` of mallopt(3)): what one thread frees is of use
/// to the others. To be called before there are threads.
pub fn share_pools() {
    #[allow(unsafe_code, reason = "glibc's mallopt takes two numbers and changes only how the allocator grows")]
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 2);
    }
}
