//! The six things that a user of the library does. `docs/library.md` explains them; a test holds the two together.

use parloop::engine::{Engine, Generation, Generator, Model, Passes, Prefill, SampleOptions, score};
use parloop::model::checkpoint::{CheckpointWriter, TensorCopy};
use parloop::model::{Checkpoint, DType, tensors};
use std::path::Path;
use std::sync::Arc;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

// load
fn load(folder: &Path) -> Result<Engine> {
    let checkpoint = Checkpoint::open(folder)?;
    let model = Arc::new(Model::new(&checkpoint)?);
    // One engine may run many sequences; the model can be shared by many engines.
    Ok(Engine::new(model, Some(2))?)
}

// generate
fn write(engine: &mut Engine, prompt: &str, tokens: usize) -> Result<String> {
    let model = engine.model().clone();
    let tokenizer = model.tokenizer().ok_or("the model has no tokenizer")?;
    let options = Generation {
        tokens,
        sampling: SampleOptions { seed: 7, ..SampleOptions::default() },
        prefill: Prefill::default(),
        passes: Passes::Auto,
        ignore_end: false,
    };
    let mut sequence = engine.sequence();
    let stream = tokenizer.stream();
    let mut tokens = Generator::new(engine, &mut sequence, &tokenizer.encode(prompt)?, &options)?.text(stream);
    let mut text = String::new();
    // A token's text is what can be shown for certain; what was held back comes last.
    for token in &mut tokens {
        text += &token?.text;
    }
    Ok(text + &tokens.rest())
}

// score
fn loss(engine: &mut Engine, text: &str) -> Result<f64> {
    let model = engine.model().clone();
    let ids = model.tokenizer().ok_or("the model has no tokenizer")?.encode(text)?;
    Ok(score(engine, &ids, Passes::Auto, false, None)?.loss)
}

// fork
fn fork(engine: &mut Engine, prompt: &[u32], ends: [u32; 2]) -> Result<[Vec<f32>; 2]> {
    let mut one = engine.sequence();
    engine.prefill(&mut one, prompt, &Prefill::default())?;
    // A clone shares keys and values until one of the two goes on.
    let mut other = one.clone();
    let vocabulary = engine.model().config().vocab_size;
    let logits = engine.step(&mut [&mut one, &mut other], &ends, Passes::Auto)?;
    Ok([logits[..vocabulary].to_vec(), logits[vocabulary..].to_vec()])
}

// convert
fn convert(from: &Path, to: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(from)?;
    let config = checkpoint.config();
    let copies = tensors::expected(config).into_iter().map(|spec| {
        let tensor = checkpoint.tensor(&spec.name)?;
        Ok(TensorCopy { name: spec.name, dtype: DType::BF16, tensor })
    });
    let copies = copies.collect::<Result<Vec<_>>>()?;
    let writer = CheckpointWriter::create(to)?;
    writer.model(config, checkpoint.tokenizer())?;
    writer.file("config.json", checkpoint.family().to_json(config, checkpoint.notes())?.as_bytes())?;
    writer.weights(&copies, None)?;
    Ok(writer.finish()?)
}

// train
#[cfg(feature = "train")]
fn train(text: &Path, out: &Path) -> Result<f64> {
    use parloop::train::{Hooks, Settings, TrainJob, train};
    use std::sync::atomic::AtomicBool;

    let mut settings = Settings::new();
    settings.add_toml(
        "recipe = 'plt2'\nhidden_size = 32\nintermediate_size = 64\nlayers = 1\nheads = 2\nkv_heads = 1\nhead_dim = 16\n\
         tokenizer = 'bytes'\ncontext = 32\nbatch = 2\nsteps = 4\n",
    )?;
    let stop = AtomicBool::new(false);
    let job = TrainJob::new(text, out, settings.options()?);
    Ok(train(&job, &mut Hooks::new(&stop))?.loss)
}

// main
fn main() -> Result<()> {
    let work = std::env::temp_dir().join(format!("parloop-library-{}", std::process::id()));
    std::fs::create_dir_all(&work)?;
    let (text, trained, converted) = (work.join("text.txt"), work.join("trained"), work.join("converted"));
    std::fs::write(&text, "To be, or not to be, that is the question.\n".repeat(100))?;
    #[cfg(feature = "train")]
    println!("trained to a loss of {:.2}", train(&text, &trained)?);
    #[cfg(not(feature = "train"))]
    println!("built without training; {} is not written", trained.display());
    if trained.exists() {
        convert(&trained, &converted)?;
        let mut engine = load(&converted)?;
        println!("wrote {:?}", write(&mut engine, "To be", 20)?);
        println!("loss {:.2}", loss(&mut engine, "To be, or not")?);
        let [one, other] = fork(&mut engine, &[1, 2, 3], [4, 5])?;
        println!("two forks differ: {}", one != other);
    }
    Ok(std::fs::remove_dir_all(&work)?)
}
