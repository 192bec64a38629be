//! Input rows in the forms that products take them.

#[cfg(target_arch = "x86_64")]
use super::amx::integer::Layout;
use super::{Norm, PADDING};
#[cfg(target_arch = "x86_64")]
use crate::SharedMut;
use crate::isa::kernel;
#[cfg(target_arch = "x86_64")]
use crate::memory::Line;
use crate::quant;
use crate::simd::{Simd, f32_to_bf16};

/// A row in each form that is wanted, padded with zeros to a multiple of [`PADDING`]; forms not wanted are empty.
pub(super) struct Forms<'a> {
    pub f32: &'a mut [f32],
    pub bf16: &'a mut [u16],
    pub i8: &'a mut [i8],
    /// Scale and sum of each block of 32 of `i8`.
    pub blocks: &'a mut [[f32; 2]],
    /// The row's place among blocks for integer matrix tiles.
    #[cfg(target_arch = "x86_64")]
    pub tiles: Option<(Layout, usize, SharedMut<Line>)>,
}

kernel! {
    /// Norms a row and brings it into its forms.
    pub(super) fn row(x: &[f32], norm: Option<Norm<'_>>, forms: Forms<'_>) = row_generic
}

#[inline(always)]
unsafe fn row_generic<S: Simd>(x: &[f32], norm: Option<Norm<'_>>, forms: Forms<'_>) {
    let scale = match norm {
        // SAFETY: the caller's promise.
        Some(norm) => unsafe { crate::ops::rms_scale::<S>(x, norm.eps) },
        None => 1.0,
    };
    let Forms { f32: floats, bf16: halves, i8: bytes, blocks, .. } = forms;
    for (i, x) in x.chunks(PADDING).enumerate() {
        let at = i * PADDING..(i + 1) * PADDING;
        let mut part = [0.0; PADDING];
        match norm {
            Some(norm) => {
                let weight = &norm.weight[at.start..][..x.len()];
                for ((part, x), w) in part.iter_mut().zip(x).zip(weight) {
                    *part = x * scale * w;
                }
            }
            None => part[..x.len()].copy_from_slice(x),
        }
        if let Some(to) = floats.get_mut(at.clone()) {
            to.copy_from_slice(&part);
        }
        if let Some(to) = halves.get_mut(at.clone()) {
            to.iter_mut().zip(&part).for_each(|(h, v)| *h = f32_to_bf16(*v));
        }
        const BLOCKS: usize = PADDING / quant::BLOCK;
        #[cfg(target_arch = "x86_64")]
        if let Some((layout, row, out)) = forms.tiles {
            let (mut values, mut scales) = ([0; PADDING], [[0.0; 2]; BLOCKS]);
            quant::quantize_row(&part, &mut values, &mut scales);
            for (b, (values, scales)) in values.chunks_exact(quant::BLOCK).zip(scales).enumerate() {
                // SAFETY: this row is prepared by one task only, in a buffer made for the layout.
                unsafe { layout.put(row, i * BLOCKS + b, values, scales, out) };
            }
        }
        if let Some(to) = bytes.get_mut(at) {
            quant::quantize_row(&part, to, &mut blocks[i * BLOCKS..(i + 1) * BLOCKS]);
        }
    }
}
