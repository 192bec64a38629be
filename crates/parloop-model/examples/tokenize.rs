//! Ids of texts, for comparing tokenizers: reads one JSON string a line, writes `{"ids": [...], "text": "..."}`, where
//! the text is what the ids decode to.
//!
//!     cargo run --release -p parloop-model --example tokenize -- tokenizer.model < lines.jsonl

use parloop_model::Tokenizer;
use parloop_model::tokenizer::{Conventions, Pieces};
use std::io::{BufRead, BufWriter, Write};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("give the path of a tokenizer.model")?;
    let tokenizer = Tokenizer::from_pieces(Pieces::from_bytes(&std::fs::read(path)?)?, Conventions::default())?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for line in std::io::stdin().lock().lines() {
        let ids = tokenizer.encode(&serde_json::from_str::<String>(&line?)?)?;
        writeln!(out, "{}", serde_json::json!({ "ids": ids, "text": tokenizer.decode(&ids)? }))?;
    }
    Ok(out.flush()?)
}
