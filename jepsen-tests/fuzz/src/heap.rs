//! The limit of the heap: a length that stands in an input must not become an allocation.

use std::alloc::System;

use cap::Cap;

/// Bytes that no input of a few KiB may need at once.
const LIMIT: usize = 64 << 20;

/// Beyond this the process ends at once.
const HARD_LIMIT: usize = 512 << 20;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, HARD_LIMIT);

/// Checks that no input so far took more than the limit.
///
/// # Panics
/// One did.
pub fn check() {
    let most = HEAP.max_allocated();
    assert!(most < LIMIT, "{most} bytes of heap were in use at once, more than {LIMIT}");
}
