//! Writing a checkpoint as one GGUF file, its matrices in a type of choice.

use super::value::Value;
use super::writer::{Entry, Writer};
use super::{config, names, rope, text, tokenizer};
use crate::dtype::codec;
use crate::tensor::stored_row;
use crate::tensors::{Role, Spec};
use crate::{Checkpoint, DType, Error, Result, Tensor, tensors};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

/// The ending of a shared expert's gate.
pub(super) const SHARED_GATE: &str = ".mlp.shared_expert_gate.weight";

/// A tensor as it is written, and where from.
struct Planned {
    spec: Spec,
    /// The checkpoint's tensors in it: one, or that of every expert.
    sources: Vec<String>,
    entry: Entry,
    /// Size of the heads whose rows are stored in pairs, otherwise 0.
    paired: usize,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of its tensors.
    pub tensor_bytes: u64,
    /// Elements of its tensors.
    pub elements: u64,
    /// Tensors and elements of each type, in the order of [`DType::ALL`].
    pub types: Vec<(DType, usize, u64)>,
    /// Matrices that were stored in another type because of their width: name, width, type.
    pub fallbacks: Vec<(String, usize, DType)>,
}

/// The type that stands in for one whose blocks do not divide a row, as in llama.cpp (`tensor_type_fallback`): a type
/// of about the same size with blocks of 32, otherwise f16.
fn fallback(kind: DType, width: usize) -> DType {
    let smaller = match kind {
        DType::Q4K => DType::Q5_0,
        DType::Q5K => DType::Q5_1,
        DType::Q6K => DType::Q8_0,
        other => other,
    };
    [kind, smaller].into_iter().find(|k| width.is_multiple_of(k.block().0)).unwrap_or(DType::F16)
}

/// The type of a tensor in a file of matrices of type `kind`. `head` says whether logits are computed from it.
///
/// Norms, gates and biases stay f32: they are small, and errors in them act on everything. The head stays at Q6_K
/// for types below 6 bits, as in llama.cpp: errors in it act on every logit.
fn type_of(spec: &Spec, kind: DType, head: bool) -> DType {
    match spec.role {
        Role::Embedding | Role::Head if head && kind.is_block() && kind.bits() < DType::Q6K.bits() => {
            fallback(DType::Q6K, spec.shape[1])
        }
        Role::Embedding | Role::Head | Role::Matrix => fallback(kind, spec.shape[1]),
        // Routers too: another choice is another result.
        _ => DType::F32,
    }
}

/// Writes a checkpoint as a GGUF file with matrices of type `kind`, converted by `threads` threads.
/// `progress` sees how many tensors are done, and how many there are.
///
/// # Errors
/// The file cannot be written, or a tensor holds a number that the type cannot store; the message names it.
pub fn quantize(
    checkpoint: &Checkpoint,
    path: &Path,
    kind: DType,
    threads: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Written> {
    let config = checkpoint.config();
    let arch = config::architecture_of(config);
    let mut plan: Vec<Planned> = Vec::new();
    let mut stacks: HashMap<String, usize> = HashMap::new();
    for mut spec in tensors::expected(config) {
        let head = spec.role == Role::Head || spec.role == Role::Embedding && config.tie_word_embeddings;
        let kind = type_of(&spec, kind, head);
        let (source, name) = (spec.name.clone(), names::to_gguf(&spec.name));
        if names::expert(&source).is_some() {
            if let Some(at) = stacks.get(&name) {
                plan[*at].sources.push(source);
                continue;
            }
            stacks.insert(name.clone(), plan.len());
            spec.shape.insert(0, config.moe.as_ref().map_or(0, |moe| moe.experts));
        }
        if source.ends_with(SHARED_GATE) {
            // A vector in these files.
            spec.shape.remove(0);
        }
        let entry = Entry { name, shape: spec.shape.clone(), kind };
        let paired = if arch.paired && names::rotated(&spec.name).is_some() { config.head_dim } else { 0 };
        plan.push(Planned { spec, sources: vec![source], entry, paired });
    }
    let (scaling, divisors) = rope::to_metadata(config, arch.name)?;
    let mut metadata = config::to_metadata(config);
    metadata.extend(scaling);
    metadata.push(("general.file_type".into(), Value::U32(file_type(kind))));
    metadata.push(("general.quantization_version".into(), Value::U32(2)));
    let known = tokenizer::to_metadata(checkpoint.tokenizer(), config, &checkpoint.stops())?;
    metadata.extend(text::to_metadata(checkpoint.settings(), checkpoint.tokenizer(), &known));
    metadata.extend(known);
    let mut entries: Vec<Entry> = plan.iter().map(|p| p.entry.clone()).collect();
    entries.extend(divisors.iter().map(|d| Entry {
        name: rope::FACTORS.into(),
        shape: vec![d.len()],
        kind: DType::F32,
    }));
    let mut writer = Writer::create(path, &metadata, &entries)?;
    for (done, planned) in plan.iter().enumerate() {
        progress(done, plan.len());
        let mut bytes = Vec::new();
        for source in &planned.sources {
            bytes.append(&mut encoded(checkpoint.tensor(source)?, planned, threads)?);
        }
        writer.tensor(&bytes)?;
    }
    if let Some(divisors) = divisors {
        let bytes: Vec<u8> = divisors.iter().flat_map(|d| d.to_le_bytes()).collect();
        writer.tensor(&bytes)?;
    }
    progress(plan.len(), plan.len());
    let types = DType::ALL.into_iter().filter_map(|kind| {
        let of = || plan.iter().filter(|p| p.entry.kind == kind);
        (of().count() > 0).then(|| (kind, of().count(), of().map(|p| p.spec.elements() as u64).sum()))
    });
    let replaced = plan.iter().filter_map(|p| {
        let width = p.spec.shape.last().copied().unwrap_or(0);
        let matrix = matches!(p.spec.role, Role::Embedding | Role::Head | Role::Matrix);
        (matrix && !width.is_multiple_of(kind.block().0)).then(|| (p.entry.name.clone(), width, p.entry.kind))
    });
    Ok(Written {
        bytes: writer.finish()?,
        tensor_bytes: entries.iter().filter_map(Entry::bytes).map(|b| b as u64).sum(),
        elements: tensors::parameters(config),
        types: types.collect(),
        fallbacks: replaced.collect(),
    })
}

/// The bytes of a tensor in its new type and row order. Rows that already have the type are copied as they are.
fn encoded(tensor: &Tensor, planned: &Planned, threads: usize) -> Result<Vec<u8>> {
    let kind = planned.entry.kind;
    if planned.paired > 0 && tensor.shape.len() == 1 {
        // A bias has an element where its matrix has a row.
        let values = tensor.to_f32();
        let values: Vec<f32> = (0..values.len()).map(|i| values[read_row(i, planned.paired)]).collect();
        if let Some(message) = unfit(kind, f32::MAX, &values) {
            return Err(Error::tensor(&planned.spec.name, message));
        }
        return Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }
    let (rows, width) = (tensor.rows(), tensor.width());
    let size = kind.row_bytes(width).unwrap_or(0);
    let source = |row: usize| match planned.paired {
        0 => row,
        head => read_row(row, head),
    };
    let mut out = vec![0; rows * size];
    let failed = Mutex::new(None);
    let part = rows.div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        for (first, out) in out.chunks_mut((part * size).max(1)).enumerate() {
            let failed = &failed;
            scope.spawn(move || {
                let mut values = vec![0.0; width];
                for (row, out) in (first * part..).zip(out.chunks_exact_mut(size)) {
                    let same = tensor.dtype == kind;
                    tensor.row(source(row), &mut values);
                    let most = if same || matches!(kind, DType::F32 | DType::BF16) { f32::MAX } else { codec::LARGEST };
                    if let Some(message) = unfit(kind, most, &values) {
                        *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                            Some(Error::tensor(&planned.spec.name, message));
                        return;
                    }
                    if same {
                        out.copy_from_slice(tensor.row_bytes(source(row)));
                        continue;
                    }
                    codec::encode(kind, &values, out);
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(out), Err)
}

/// Why a row cannot be stored in a type that holds numbers up to `most`.
fn unfit(kind: DType, most: f32, values: &[f32]) -> Option<String> {
    let value = values.iter().find(|v| !v.is_finite() || v.abs() > most)?;
    Some(match value.is_finite() {
        true => format!("holds {value}, beyond what {} can store ({most}); use bf16 or f32", kind.name()),
        false => format!("holds {value}, expected finite numbers; the checkpoint is broken"),
    })
}

/// Which row of a tensor with whole halves is stored at row `i` of one with paired rows: the inverse of [`stored_row`].
fn read_row(i: usize, head: usize) -> usize {
    let (first, within) = (i / head * head, i % head);
    let row = first + within % 2 * (head / 2) + within / 2;
    debug_assert_eq!(stored_row(row, head), i);
    row
}

/// `general.file_type`: what most of the matrices are (`enum llama_ftype` in llama.h).
fn file_type(kind: DType) -> u32 {
    match kind {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Q4_0 => 2,
        DType::Q4_1 => 3,
        DType::Q8_0 => 7,
        DType::Q5_0 => 8,
        DType::Q5_1 => 9,
        DType::Q4K => 14,
        DType::Q5K => 16,
        DType::Q6K => 18,
        DType::BF16 => 32,
    }
}
