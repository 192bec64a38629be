//! F32, F16 and BF16: one number after the other.

use half::{bf16, f16};

pub fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    out.iter_mut().zip(bytes.chunks_exact(4)).for_each(|(o, b)| *o = f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
}

pub fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    out.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(o, b)| *o = f16::from_le_bytes([b[0], b[1]]).to_f32());
}

pub fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    // By shifting: the library's conversion asks every number whether it is one, which keeps it out of vectors.
    let pairs = bytes.as_chunks::<2>().0;
    out.iter_mut().zip(pairs).for_each(|(o, b)| *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16));
}

pub fn encode_f32(values: &[f32], out: &mut [u8]) {
    out.chunks_exact_mut(4).zip(values).for_each(|(o, v)| o.copy_from_slice(&v.to_le_bytes()));
}

pub fn encode_f16(values: &[f32], out: &mut [u8]) {
    out.chunks_exact_mut(2).zip(values).for_each(|(o, v)| o.copy_from_slice(&f16::from_f32(*v).to_le_bytes()));
}

pub fn encode_bf16(values: &[f32], out: &mut [u8]) {
    out.chunks_exact_mut(2).zip(values).for_each(|(o, v)| o.copy_from_slice(&bf16::from_f32(*v).to_le_bytes()));
}
