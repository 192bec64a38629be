//! Block types against what the Python package `gguf` and llama.cpp compute (`scripts/gguf_fixture.py`).

use parloop_model::dtype::codec;
use parloop_model::gguf::{Array, Container, Value};
use parloop_model::{DType, Tensor};
use std::sync::Arc;

const FIXTURE: &[u8] = include_bytes!("fixtures/blocks.gguf");

fn fixture() -> Container {
    Container::read(Arc::new(FIXTURE)).unwrap()
}

fn blocks_of(container: &Container, name: &str) -> Option<Tensor> {
    container.tensors.get(name).cloned()
}

#[test]
fn every_type_reads_what_the_python_package_reads() {
    let file = fixture();
    for kind in DType::ALL.into_iter().filter(|k| *k != DType::F32) {
        let name = match kind {
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            other => other.name(),
        };
        let stored = blocks_of(&file, &format!("{name}.blocks")).or(blocks_of(&file, &format!("{name}.python")));
        let (stored, values) = (stored.unwrap(), &file.tensors[&format!("{name}.values")]);
        assert_eq!((stored.dtype, &stored.shape), (kind, &values.shape));
        let (found, expected) = (stored.to_f32(), values.to_f32());
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // The package multiplies in another order for some types: one rounding may differ.
            let tolerance = 2e-7 * expected.abs().max(1e-3);
            assert!((found - expected).abs() <= tolerance, "{name} element {i}: {found}, expected {expected}");
        }
    }
}

#[test]
fn plain_types_write_what_the_python_package_writes() {
    let file = fixture();
    let x = file.tensors["input"].to_f32();
    for (kind, name) in [(DType::F16, "f16.python"), (DType::BF16, "bf16.python")] {
        let mut bytes = vec![0; 2 * x.len()];
        codec::encode(kind, &x, &mut bytes);
        assert_eq!(bytes, *file.tensors[name].bytes(), "{name}");
    }
}

/// Squared errors, each element's weighted as llama.cpp weighs it without an importance matrix, and unweighted.
fn errors(x: &[f32], stored: &[f32]) -> (f64, f64) {
    let (mut weighted, mut plain) = (0.0, 0.0);
    for (x, y) in x.chunks_exact(32).zip(stored.chunks_exact(32)) {
        let mean = (x.iter().map(|v| v * v).sum::<f32>() / 32.0).sqrt();
        for (x, y) in x.iter().zip(y) {
            let square = f64::from(x - y).powi(2);
            weighted += f64::from(mean + x.abs()) * square;
            plain += square;
        }
    }
    (weighted, plain)
}

#[test]
fn quantised_errors_are_no_larger_than_those_of_llama_cpp() {
    let file = fixture();
    let input = &file.tensors["input"];
    let x = input.to_f32();
    for kind in DType::ALL.into_iter().filter(|k| k.is_block()) {
        let mut bytes = vec![0; kind.row_bytes(x.len()).unwrap()];
        codec::encode(kind, &x, &mut bytes);
        let mut ours = vec![0.0; x.len()];
        codec::decode(kind, &bytes, &mut ours);
        let theirs = file.tensors[&format!("{}.ggml", kind.name())].to_f32();
        let (mut ratio, mut plain) = (0.0f64, 0.0f64);
        // Row by row: the rows are of different size.
        for (x, (ours, theirs)) in x.chunks_exact(512).zip(ours.chunks_exact(512).zip(theirs.chunks_exact(512))) {
            let (ours, theirs) = (errors(x, ours), errors(x, theirs));
            (ratio, plain) = (ratio + ours.0 / theirs.0 / 4.0, plain + ours.1 / theirs.1 / 4.0);
        }
        println!("{}: squared error {ratio:.3} of llama.cpp's, unweighted {plain:.3}", kind.name());
        let most = if kind == DType::Q8_0 { 1.01 } else { 0.99 };
        assert!(ratio < most, "{}: {ratio}", kind.name());
        if let Some(python) = file.tensors.get(&format!("{}.python", kind.name())) {
            assert!(errors(&x, &ours).0 <= 1.01 * errors(&x, &python.to_f32()).0, "{}", kind.name());
        }
    }
}

#[test]
fn metadata_of_every_kind_is_read_as_it_was_written() {
    let file = fixture();
    let expected = [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-100)),
        ("u16", Value::U16(60000)),
        ("i16", Value::I16(-30000)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-2_000_000_000)),
        ("f32", Value::F32(0.1)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("Grüße, 世界".into())),
        ("u64", Value::U64((1 << 63) + 5)),
        ("i64", Value::I64(-(1 << 62))),
        ("f64", Value::F64(0.1)),
        ("strings", Value::Array(Array::strings(["a", "", "ö"]))),
        ("ints", Value::Array(Array::i32s([1, -2, 3]))),
        ("floats", Value::Array(Array::f32s([0.5, -0.25]))),
    ];
    for (key, value) in expected {
        assert_eq!(file.metadata[&format!("test.{key}")], value, "{key}");
    }
    let array = |key: &str| match &file.metadata[key] {
        Value::Array(array) => array.values().collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(array("test.bools"), [Value::Bool(true), Value::Bool(false)]);
    let nested = [Value::Array(Array::i32s([1, 2])), Value::Array(Array::i32s([3]))];
    assert_eq!(array("test.nested"), nested);
}
