//! Buffers that are used again.
//!
//! A step keeps hundreds of megabytes until its backward pass and then frees them; handed back to the system and
//! fetched again, page by page, they cost more time than many of the operations that fill them. Buffers that never
//! become tensors (what an operation saves, and scratch) are therefore kept, by length.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{LazyLock, Mutex, PoisonError};

static FREE: LazyLock<Mutex<HashMap<usize, Vec<Vec<f32>>>>> = LazyLock::new(Mutex::default);

/// Below this the allocator is as good.
const LEAST: usize = 1 << 12;

/// Memory that goes back to the pool when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<f32>);

/// A buffer with anything in it.
pub(crate) fn take(len: usize) -> Buffer {
    if len < LEAST {
        return Buffer(vec![0.0; len]);
    }
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    let found = free.get_mut(&len).and_then(Vec::pop);
    drop(free);
    Buffer(found.unwrap_or_else(|| vec![0.0; len]))
}

/// A buffer of zeros.
pub(crate) fn zeroed(len: usize) -> Buffer {
    let mut buffer = take(len);
    buffer.fill(0.0);
    buffer
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.0);
        if values.len() >= LEAST {
            let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
            free.entry(values.len()).or_default().push(values);
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = take(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_zeroed_means_zero() {
        let length = LEAST + 12_345;
        let mut first = take(length);
        first.fill(7.0);
        let address = first.as_ptr();
        drop(first);
        let again = zeroed(length);
        assert_eq!(again.as_ptr(), address);
        assert!(again.iter().all(|x| *x == 0.0) && again.len() == length);
        assert_ne!(take(length).as_ptr(), address);
    }
}
