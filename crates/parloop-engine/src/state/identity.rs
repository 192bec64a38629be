//! Which model made a state, cheaply.

use crate::Model;
use crate::exit::ExitGate;
use crate::stored;
use parloop_kernels::Weights;
use parloop_model::layer::Piece;
use twox_hash::xxhash3_128::Hasher;

/// A fingerprint of a model as it runs: what decides which numbers it computes, every norm and bias in full, and of every matrix the type, the
/// shape, and up to 16 rows from the first to the last as numbers.
///
/// It reads some 30 MB of a 15 GB model. Another model, another training step, another conversion of the weights
/// change rows everywhere and are told apart; a change of single rows that are not looked at is not. It guards
/// against mistakes, not against forgery.
pub(super) fn identity(model: &Model) -> String {
    let mut hash = Hasher::new();
    hash.write(model.config().computed().as_bytes());
    let embedding = &model.embedding;
    let most = stored::telling(model.layers.iter().map(|layer| layer.matrices().count()).sum());
    rows(&mut hash, embedding.type_name(), embedding.shape(), most, |i, out| embedding.row(i, out));
    for layer in model.layers.iter() {
        for piece in layer.list() {
            match piece {
                Piece::Matrix(weights) => matrix(&mut hash, weights, most),
                Piece::Vector(values) => vector(&mut hash, values),
            }
        }
    }
    if let Some(ExitGate { weight, bias }) = &model.exit_gate {
        vector(&mut hash, weight);
        vector(&mut hash, &[*bias]);
    }
    vector(&mut hash, &model.final_norm);
    matrix(&mut hash, &model.head, most);
    format!("{:032x}", hash.finish_128())
}

fn vector(hash: &mut Hasher, values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    hash.write(&bytes);
}

fn matrix(hash: &mut Hasher, weights: &Weights, most: usize) {
    rows(hash, weights.kind().name(), [weights.outputs(), weights.inputs()], most, |i, out| weights.row(i, out));
}

fn rows(hash: &mut Hasher, kind: &str, [outputs, inputs]: [usize; 2], most: usize, read: impl Fn(usize, &mut [f32])) {
    hash.write(format!("{kind} {outputs} {inputs}").as_bytes());
    let mut row = vec![0.0; inputs];
    for i in stored::telling_rows(outputs, most) {
        read(i, &mut row);
        vector(hash, &row);
    }
}
