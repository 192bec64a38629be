//! The golden folders: checkpoints and what an outside implementation computes from them.

use parloop_model::Checkpoint;
use safetensors::SafeTensors;
use std::path::PathBuf;

/// Names of the golden folders, one per recipe of the family.
pub const GOLDENS: [&str; 8] =
    ["vanilla", "loop2", "loop2-clp", "loop2-clp-share", "plt2", "plt3", "plt2-query-gate", "loop2-share-gswa"];

/// Names of the golden folders of models with experts (`tests/reference/experts.py`).
pub const MOE_GOLDENS: [&str; 7] =
    ["moe-vanilla", "moe-loop2", "moe-loop2-shared", "moe-plt2", "moe-plt2-shared", "moe-plt3", "moe-plt3-shared"];

/// One golden: a checkpoint, a sequence, and the expected results in f32.
pub struct Golden {
    /// Its folder.
    pub folder: PathBuf,
    /// The checkpoint in it.
    pub checkpoint: Checkpoint,
    /// T token ids.
    pub ids: Vec<u32>,
    /// `[T * V]`
    pub logits: Vec<f32>,
    /// `[R * T * d]`, after the final norm.
    pub states: Vec<f32>,
    /// Mean next-token cross-entropy in nats.
    pub loss: f32,
    expected: Vec<u8>,
}

impl Golden {
    /// Reads a golden folder.
    pub fn read(name: &str) -> Self {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens")).join(name);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let expected = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let (ids, logits, states, loss) = {
            let file = SafeTensors::deserialize(&expected).unwrap();
            let of = |name: &str| floats(&file, name);
            (ids(&file), of("logits"), of("states"), of("loss")[0])
        };
        Self { folder, checkpoint, ids, logits, states, loss, expected }
    }

    /// The expected gradient of the loss with respect to a tensor.
    pub fn gradient(&self, name: &str) -> Vec<f32> {
        floats(&SafeTensors::deserialize(&self.expected).unwrap(), &format!("grad.{name}"))
    }
}

/// Names of the folders of tiny checkpoints of other families (`tests/reference/families.py`; those with experts
/// `moe_families.py`).
pub const FAMILIES: [&str; 27] = [
    "iquestpltcoder",
    "iquestpltcoder-loop-gate-proj",
    "iquestpltcoder-query",
    "iquestloopcoder",
    "ouro",
    "ouro-exit",
    "nanbeige",
    "nanbeige-skip-norm",
    "llama",
    "llama-biases-tied",
    "llama-linear",
    "llama-llama3",
    "llama-yarn",
    "llama-yarn-factors",
    "mistral",
    "qwen2",
    "qwen2-tied",
    "qwen3",
    "mixtral",
    "qwen2_moe",
    "qwen2_moe-step",
    "qwen3_moe",
    "olmoe",
    "olmoe-grouped",
    "granitemoe",
    "dots1",
    "glm4_moe",
];

/// One tiny checkpoint of another family, a sequence, and the expected logits.
pub struct FamilyCase {
    /// Its folder.
    pub folder: PathBuf,
    /// The checkpoint in it.
    pub checkpoint: Checkpoint,
    /// T token ids.
    pub ids: Vec<u32>,
    /// `[T][V]`
    pub logits: Vec<Vec<f32>>,
}

impl FamilyCase {
    /// Reads a case's folder.
    pub fn read(name: &str) -> Self {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/families")).join(name);
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let expected = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&expected).unwrap();
        let width = checkpoint.config().vocab_size;
        let logits = floats(&file, "logits").chunks_exact(width).map(<[f32]>::to_vec).collect();
        Self { ids: ids(&file), logits, folder, checkpoint }
    }
}

fn ids(file: &SafeTensors<'_>) -> Vec<u32> {
    let ids = file.tensor("ids").unwrap();
    ids.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as u32).collect()
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}
