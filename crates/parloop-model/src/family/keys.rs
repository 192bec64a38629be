//! Keys of configurations that no family reads: which may stand there, and which would make another model.

use crate::Result;
use crate::fields::{is_off, unknown};
use serde_json::{Map, Value};

/// Keys that do not change what is computed here: details of training, of other programs and their files, of how text is
/// generated (which `generation_config.json` says), and what every class of Hugging Face's library has.
const HARMLESS: [&str; 71] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "attention_dropout",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "min_length",
    "mlp_dropout",
    "model_max_length",
    "neftune_noise_alpha",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "residual_dropout",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "train_batch_size",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
    "vocab_file",
];

/// Keys that are harmless only while they are absent, null, false or empty.
const MUST_BE_OFF: [&str; 13] = [
    "add_cross_attention",
    "cross_attention_hidden_size",
    "is_encoder_decoder",
    "layer_types",
    "pruned_heads",
    "qk_norm",
    "quantization",
    "quantization_config",
    "rope_interleaved",
    "sliding_window",
    "tie_encoder_decoder",
    "use_qk_norm",
    "use_sliding_window",
];

/// Refuses keys that could make another model, by name.
pub(super) fn judge(other: &Map<String, Value>) -> Result<()> {
    let allowed = |key: &str, value: &Value| HARMLESS.contains(&key) || MUST_BE_OFF.contains(&key) && is_off(value);
    match other.iter().find(|(key, value)| !allowed(key, value)) {
        Some((key, value)) => Err(unknown(key, value)),
        None => Ok(()),
    }
}
