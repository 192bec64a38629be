//! Times training steps: `cargo run --release -p parloop-train --example step_time -- [recipe] [steps]`.
//! One line: tokens a second of forward, forward + backward.

use burn::tensor::Device;
use parloop_model::{ModelConfig, Recipe, Sizes};
use parloop_train::LoopModel;
use std::time::Instant;

fn main() {
    let mut args = std::env::args().skip(1);
    let recipe = Recipe::preset(&args.next().unwrap_or("vanilla".into())).unwrap();
    let steps: usize = args.next().map_or(5, |s| s.parse().unwrap());
    let sizes = Sizes {
        vocab_size: 1024,
        hidden_size: 192,
        intermediate_size: 512,
        num_hidden_layers: 6,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 32,
    };
    let config = ModelConfig::new(sizes, recipe);
    let (batch, time) = (16, 256);
    let model = LoopModel::init(&config, 0.02, 0.0, 1, &Device::flex().autodiff()).unwrap();
    let text: Vec<u32> = (0..batch * time).map(|i| (i * 7919 % 1024) as u32).collect();
    let ids = model.ids(&text, batch, time).unwrap();
    for _ in 0..steps {
        let start = Instant::now();
        let loss = model.loss(ids.clone(), ids.clone());
        let value = loss.clone().into_data().iter::<f32>().next().unwrap();
        let forward = start.elapsed();
        let grads = loss.backward();
        drop(grads);
        let all = start.elapsed();
        let rate = |t: std::time::Duration| (batch * time) as f64 / t.as_secs_f64();
        println!("loss {value:.4}  forward {:.0} tok/s  step {:.0} tok/s", rate(forward), rate(all));
    }
}
