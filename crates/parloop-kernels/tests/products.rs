//! Matrix products against their scalar twin, and the promise that a row's result does not depend on its company.

use parloop_kernels::ops::swiglu_safe;
use parloop_kernels::project::scalar_product;
use parloop_kernels::{Effect, Isa, Linear, Norm, Op, Pool, Product, Projector, WeightType, Weights};
use parloop_testing::{Rng, assert_close};
use std::sync::Arc;

fn weights(rng: &mut Rng, kind: WeightType, outputs: usize, inputs: usize) -> Weights {
    let scale = 1.0 / (inputs as f32).sqrt();
    let values: Vec<f32> = (0..outputs * inputs).map(|_| scale * rng.normal()).collect();
    match kind {
        WeightType::F32 => Weights::from_f32(outputs, inputs, &values).unwrap(),
        WeightType::Bf16 => {
            // One byte in front, so that the elements are not even aligned to their own size.
            let mut bytes = vec![0u8];
            bytes.extend(values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()));
            let range = 1..bytes.len();
            Weights::in_place(kind, outputs, inputs, Arc::new(bytes), range).unwrap()
        }
        kind => {
            let dense = Weights::from_f32(outputs, inputs, &values).unwrap();
            dense.convert(kind, &mut Pool::new(2)).unwrap()
        }
    }
}

fn rows(rng: &mut Rng, n: usize, width: usize) -> Vec<f32> {
    (0..n * width).map(|_| rng.normal()).collect()
}

fn product(on: &mut Projector, w: &Weights, x: &[f32]) -> Vec<f32> {
    let n = x.len() / w.inputs();
    let mut out = vec![f32::NAN; n * w.outputs()];
    on.project(
        Op::Output,
        x,
        w.inputs(),
        None,
        &mut [Product { weights: w, rows: 0..n, effect: Effect::Store, out: &mut out }],
    );
    out
}

const KINDS: [WeightType; 5] = WeightType::ALL;

/// A width that the type can hold.
fn width(kind: WeightType, inputs: usize) -> usize {
    if kind.bits().is_some() { inputs.next_multiple_of(32) } else { inputs }
}

#[test]
fn every_instruction_set_agrees_with_the_scalar_twin_over_awkward_shapes() {
    let mut rng = Rng(1);
    for isa in Isa::available() {
        let mut on = Projector::new(isa, 2);
        for kind in KINDS {
            for (outputs, inputs) in
                [(1, 1), (3, 5), (16, 32), (17, 33), (61, 24), (100, 129), (5, 1000), (200, 7), (19, 4500)]
            {
                let inputs = width(kind, inputs);
                let w = weights(&mut rng, kind, outputs, inputs);
                for n in [1, 2, 3, 4, 5, 7, 17, 50] {
                    let x = rows(&mut rng, n, inputs);
                    let expected: Vec<f32> = x.chunks(inputs).flat_map(|x| scalar_product(&w, x)).collect();
                    // Without bf16 inputs the kernel is more exact than its twin, which rounds them.
                    let tolerance = if kind == WeightType::Bf16 && !isa.has(Isa::AVX512_BF16) { 2e-2 } else { 2e-5 };
                    let what = format!("{} {kind:?} {outputs}x{inputs}, {n} rows", isa.name());
                    assert_close(&what, &product(&mut on, &w, &x), &expected, tolerance);
                }
            }
        }
    }
}

#[test]
fn a_row_is_bit_equal_in_any_company_and_with_any_number_of_threads() {
    let mut rng = Rng(2);
    for isa in Isa::available() {
        for kind in KINDS {
            let k = width(kind, 67);
            let w = weights(&mut rng, kind, 130, k);
            let x = rows(&mut rng, 50, k);
            let whole = product(&mut Projector::new(isa, 1), &w, &x);
            for threads in 1..=3 {
                let mut on = Projector::new(isa, threads);
                for n in 1..=17 {
                    for first in [0, 3, 33] {
                        let part = product(&mut on, &w, &x[first * k..(first + n) * k]);
                        assert!(part == whole[first * 130..(first + n) * 130], "{} {kind:?} {n}", isa.name());
                    }
                }
            }
        }
    }
}

#[test]
fn norm_effects_and_row_ranges_do_what_they_say() {
    let mut rng = Rng(3);
    for isa in Isa::available() {
        let mut on = Projector::new(isa, 2);
        let (a, b) = (weights(&mut rng, WeightType::F32, 21, 40), weights(&mut rng, WeightType::F32, 21, 40));
        let x = rows(&mut rng, 5, 40);
        let weight = rows(&mut rng, 1, 40);
        let normed: Vec<f32> = x
            .chunks(40)
            .flat_map(|x| {
                let scale = 1.0 / (x.iter().map(|v| v * v).sum::<f32>() / 40.0 + 1e-5).sqrt();
                x.iter().zip(&weight).map(move |(x, w)| x * scale * w).collect::<Vec<_>>()
            })
            .collect();
        let of = |w: &Weights| normed.chunks(40).flat_map(|x| scalar_product(w, x)).collect::<Vec<_>>();
        let (pa, pb) = (of(&a), of(&b));
        let before = rows(&mut rng, 5, 21);
        let (mut gated, mut added, mut some) = (vec![0.0; 5 * 21], before.clone(), vec![0.0; 2 * 21]);
        on.project(
            Op::Output,
            &x,
            40,
            Some(Norm { weight: &weight, eps: 1e-5 }),
            &mut [
                Product { weights: &a, rows: 0..5, effect: Effect::SwiGlu(&b), out: &mut gated },
                Product { weights: &a, rows: 0..5, effect: Effect::Add, out: &mut added },
                Product { weights: &b, rows: 1..3, effect: Effect::Store, out: &mut some },
            ],
        );
        let expected: Vec<f32> = pa.iter().zip(&pb).map(|(a, b)| a / (1.0 + (-a).exp()) * b).collect();
        assert_close("swiglu", &gated, &expected, 1e-5);
        let expected: Vec<f32> = before.iter().zip(&pa).map(|(x, y)| x + y).collect();
        assert_close("add", &added, &expected, 1e-5);
        assert_close("rows", &some, &pb[21..63], 1e-5);
    }
}

#[test]
fn a_bias_in_the_effect_has_the_bits_of_one_added_afterwards() {
    let mut rng = Rng(6);
    for isa in Isa::available() {
        let mut on = Projector::new(isa, 2);
        for kind in KINDS {
            for n in [1, 3, 20] {
                let mut linear =
                    |outputs| Linear { weight: weights(&mut rng, kind, outputs, 64), bias: rows(&mut rng, 1, outputs) };
                let (gate, up) = (linear(37), linear(37));
                let (x, before) = (rows(&mut rng, n, 64), rows(&mut rng, n, 37));
                let after = |mut rows: Vec<f32>, bias: &[f32]| {
                    rows.chunks_mut(37).for_each(|row| row.iter_mut().zip(bias).for_each(|(x, b)| *x += b));
                    rows
                };
                let (g, u) = (product(&mut on, &gate.weight, &x), product(&mut on, &up.weight, &x));
                let added: Vec<f32> = g.iter().zip(&before).map(|(y, x)| y + x).collect();
                let added = after(added, &gate.bias);
                let (g, u) = (after(g, &gate.bias), after(u, &up.bias));
                let mut gated = g.clone();
                swiglu_safe(&on, &mut gated, &u);
                let (mut a, mut b, mut c) = (before.clone(), vec![0.0; n * 37], vec![0.0; n * 37]);
                let mut products = [gate.add(0..n, &mut a), gate.store(0..n, &mut b), gate.swiglu(&up, 0..n, &mut c)];
                on.project(Op::Output, &x, 64, None, &mut products);
                let what = format!("{} {kind:?}, {n} rows", isa.name());
                assert!(a == added, "{what}: added");
                assert!(b == g, "{what}: stored");
                assert!(c == gated, "{what}: gated");
            }
        }
    }
}

#[test]
fn a_matrix_of_the_wrong_size_is_refused() {
    assert!(Weights::from_f32(3, 4, &[0.0; 11]).unwrap_err().to_string().contains("48 bytes"));
    let bytes: Arc<Vec<u8>> = Arc::new(vec![0; 10]);
    assert!(Weights::in_place(WeightType::Bf16, 1, 5, bytes.clone(), 2..12).is_err());
    assert!(Weights::in_place(WeightType::F32, usize::MAX, 2, bytes, 0..10).is_err());
}

#[test]
fn an_embedding_row_is_looked_up_exactly() {
    let mut rng = Rng(4);
    for kind in KINDS {
        let k = width(kind, 13);
        let w = weights(&mut rng, kind, 9, k);
        let mut row = vec![0.0; k];
        w.row(8, &mut row);
        let mut unit = vec![0.0; k];
        unit[5] = 127.0;
        assert_eq!(scalar_product(&w, &unit)[8], 127.0 * row[5]);
    }
}

#[test]
fn conversion_keeps_what_the_type_can_hold_and_refuses_the_rest() {
    let mut rng = Rng(5);
    let mut pool = Pool::new(2);
    let dense = weights(&mut rng, WeightType::F32, 37, 96);
    let (mut a, mut b) = (vec![0.0; 96], vec![0.0; 96]);
    for (kind, error) in
        [(WeightType::Bf16, 4e-3), (WeightType::Q8, 8e-3), (WeightType::Q4Min, 0.13), (WeightType::Q4, 0.15)]
    {
        let other = dense.convert(kind, &mut pool).unwrap();
        for i in 0..37 {
            dense.row(i, &mut a);
            other.row(i, &mut b);
            assert_close(&format!("{kind:?} row {i}"), &b, &a, error);
        }
        assert_eq!(other.bytes(), kind.bytes(37, 96));
    }
    let odd = weights(&mut rng, WeightType::F32, 4, 33);
    assert!(odd.convert(WeightType::Q4, &mut pool).unwrap_err().to_string().contains("multiple of 32"));
    let broken = Weights::from_f32(1, 32, &[f32::NAN; 32]).unwrap();
    assert!(broken.convert(WeightType::Q8, &mut pool).unwrap_err().to_string().contains("weight 0 of row 0 is NaN"));
}
