//! Holding the tensors found against the tensors expected.

use super::Tensor;
use crate::dtype::codec;
use crate::family::Family;
use crate::layer::EXPERTS;
use crate::tensors::{self, Role};
use crate::{Error, ModelConfig, Result};
use std::collections::HashMap;
use std::fmt;

/// How the tensors of a checkpoint differ from those that its configuration needs.
#[derive(Debug, Default)]
pub struct Mismatch {
    /// Tensors that are needed and not there, and their shapes.
    pub missing: Vec<(String, Vec<usize>)>,
    /// Tensors of another shape, and what is wrong with each.
    pub misshapen: Vec<(String, String)>,
    /// Tensors that are there and not part of the model.
    pub unknown: Vec<String>,
}

impl Mismatch {
    /// How many tensors do not fit.
    pub fn count(&self) -> usize {
        self.missing.len() + self.misshapen.len() + self.unknown.len()
    }
}

/// The worst in full, the others counted.
impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, shape)) = self.missing.first() {
            write!(f, "tensor {name}: is missing; the configuration needs it with shape {shape:?}")?;
        } else if let Some((name, what)) = self.misshapen.first() {
            write!(f, "tensor {name}: {what}")?;
        } else if let Some(name) = self.unknown.first() {
            write!(f, "tensor {name}: is not part of the model that the configuration describes")?;
        }
        if self.count() > 1 {
            write!(
                f,
                " (in all {} missing, {} of another shape, {} unknown)",
                self.missing.len(),
                self.misshapen.len(),
                self.unknown.len()
            )?;
        }
        Ok(())
    }
}

/// Whether there is a head that repeats the embedding, in its type or rounded from one to the other's.
fn same_head(named: &HashMap<String, (String, Tensor)>) -> bool {
    match (named.get(tensors::HEAD), named.get(tensors::EMBEDDING)) {
        (Some((_, head)), Some((_, embedding))) if head.shape == embedding.shape => {
            if head.dtype == embedding.dtype {
                return head.bytes() == embedding.bytes();
            }
            rounds_to(embedding, head) || rounds_to(head, embedding)
        }
        _ => false,
    }
}

/// Whether every row of `to` is that of `from` in another type.
fn rounds_to(from: &Tensor, to: &Tensor) -> bool {
    let (mut values, mut bytes) = (vec![0.0; from.width()], vec![0; to.byte_len() / to.rows().max(1)]);
    (0..from.rows()).all(|i| {
        from.row(i, &mut values);
        codec::encode(to.dtype, &values, &mut bytes);
        bytes == to.row_bytes(i)
    })
}

/// A tensor that holds a matrix of every expert of its layer, `mlp.experts.down_proj` `[E, d, width]`, or two of them,
/// `mlp.experts.gate_up_proj` `[E, 2 width, d]`: the matrices in place, under the names that they have one by one.
fn unstacked(config: &ModelConfig, name: &str, theirs: &str, tensor: &Tensor) -> Result<Option<Vec<(String, Tensor)>>> {
    let Some((layer, kind)) = name.split_once(EXPERTS) else { return Ok(None) };
    let kind = kind.strip_suffix(".weight").unwrap_or(kind);
    let (Some(moe), false) = (&config.moe, kind.contains('.')) else { return Ok(None) };
    let (d, width) = (config.hidden_size, moe.width);
    let (parts, outputs, inputs): (&[&str], _, _) = match kind {
        "gate_up_proj" => (&["gate_proj", "up_proj"], width, d),
        "gate_proj" => (&["gate_proj"], width, d),
        "up_proj" => (&["up_proj"], width, d),
        "down_proj" => (&["down_proj"], d, width),
        _ => return Ok(None),
    };
    let expected = vec![moe.experts, parts.len() * outputs, inputs];
    if tensor.shape != expected {
        let what = format!(
            "has shape {:?}, the configuration needs {expected:?}: the matrices of {} experts",
            tensor.shape, moe.experts
        );
        return Err(Error::tensor(theirs, what));
    }
    let mut all = Vec::with_capacity(moe.experts * parts.len());
    for i in 0..moe.experts * parts.len() {
        let (e, part) = (i / parts.len(), parts[i % parts.len()]);
        let Some(matrix) = tensor.part(i * outputs, vec![outputs, inputs]) else { return Ok(None) };
        all.push((format!("{layer}{EXPERTS}{e}.{part}.weight"), matrix));
    }
    Ok(Some(all))
}

/// Gives the tensors found our names and holds them against those expected. Returns the model's tensors, and the
/// names of those that nothing needs.
pub(super) fn check(
    config: &ModelConfig,
    family: &Family,
    found: HashMap<String, Tensor>,
) -> Result<(HashMap<String, Tensor>, Vec<String>)> {
    let mut named: HashMap<String, (String, Tensor)> = HashMap::new();
    let mut unused = Vec::new();
    // In order, so that of several errors always the same is found.
    let mut found: Vec<(String, Tensor)> = found.into_iter().collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, tensor) in found {
        // Rotary frequencies are derived from the configuration; old exporters store them anyway.
        if name.ends_with("rotary_emb.inv_freq") {
            unused.push(name);
            continue;
        }
        let ours = family.our_name(&name);
        let list = unstacked(config, &ours, &name, &tensor)?.unwrap_or_else(|| vec![(ours, tensor)]);
        for (ours, tensor) in list {
            if let Some((other, _)) = named.insert(ours, (name.clone(), tensor)) {
                let (a, b) = if name < other { (name, other) } else { (other, name) };
                return Err(Error::tensor(&a, format!("is the same as {b}, which is there too; keep one of them")));
            }
        }
    }
    // Some exporters store a tied head once more.
    if config.tie_word_embeddings && same_head(&named) {
        unused.extend(named.remove(tensors::HEAD).map(|(theirs, _)| theirs));
    }
    unused.sort();
    let mut mismatch = Mismatch::default();
    let mut checked = HashMap::new();
    for spec in tensors::expected(config) {
        let Some((theirs, tensor)) = named.remove(&spec.name) else {
            mismatch.missing.push((spec.name, spec.shape));
            continue;
        };
        if tensor.shape == spec.shape {
            checked.insert(spec.name, tensor);
            continue;
        }
        let mut what = format!("has shape {:?}, the configuration needs {:?}", tensor.shape, spec.shape);
        if spec.role == Role::Gate && tensor.shape.len() == 2 {
            what += "; whether the gate looks at the hidden state or at the query must agree with its shape";
        }
        mismatch.misshapen.push((theirs, what));
    }
    mismatch.unknown.extend(named.into_values().map(|(theirs, _)| theirs));
    mismatch.unknown.sort();
    if mismatch.count() == 0 { Ok((checked, unused)) } else { Err(Error::Tensors(Box::new(mismatch))) }
}
