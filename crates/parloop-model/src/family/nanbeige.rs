//! `nanbeige`: Nanbeige4.2. Two loops over the same token, each with K/V of its own, and the final norm after every
//! loop unless `skip_loop_final_norm`.

use super::{Family, llama_like};
use crate::fields::Fields;
use crate::{ModelConfig, Recipe, Result};
use serde_json::{Map, Value};

pub(super) static FAMILY: Family = Family {
    model_type: "nanbeige",
    title: "Nanbeige, a looped transformer",
    class: "NanbeigeForCausalLM",
    read,
    write,
    stacks: &[],
    names: &[],
    aliases: &[],
};

/// Switches that make another model of it.
const SWITCHES: [&str; 20] = [
    "emb_neighbor_num",
    "emb_split_num",
    "emb_tp_num",
    "enable_depth_attention",
    "enable_double_loop_split",
    "enable_h_res_identity",
    "enable_hyper_connection",
    "enable_mhc",
    "insert_ngram_layer_idx",
    "loop_loss_weights",
    "loop_middle_layers",
    "loop_middle_repeats",
    "loop_share_kv",
    "mhc_diff_for_loop",
    "mhc_double_stream_position_for_loop",
    "mhc_identity_nohresparam",
    "ngram_embedding_hidden_size",
    "ngram_insert_all_layers",
    "ngram_vocab_size_ratio",
    "qk_layernorm",
];

/// Settings of what those switches leave off.
const SETTINGS: [&str; 11] = [
    "depth_attention_recent_window",
    "depth_attention_static_anchor_once",
    "depth_attention_stride",
    "mhc_init_gating_factor",
    "mhc_sinkhorn_iterations",
    "ngram_compressed_tokenizer",
    "ngram_fused_mode",
    "ngram_layer_downproject_size",
    "ngram_mod_force_prime",
    "num_residual_streams",
    "skip_ngram_for_input",
];

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    fields.switched_off(&SWITCHES)?;
    fields.ignore(&SETTINGS);
    let count = fields.required("num_loops")?;
    let skip = fields.optional("skip_loop_final_norm")?.unwrap_or(false);
    let channels = fields.optional::<usize>("kv_channels")?;
    let config = llama_like(fields, Recipe { norm: !skip, ..Recipe::vanilla_loop(count) })?;
    match channels.filter(|n| *n != config.head_dim) {
        Some(n) => Err(crate::Error::Config(format!("kv_channels is {n}, expected head_dim ({})", config.head_dim))),
        None => Ok(config),
    }
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    map.insert("num_loops".into(), config.recipe.count.into());
    map.insert("skip_loop_final_norm".into(), (!config.recipe.norm).into());
}
