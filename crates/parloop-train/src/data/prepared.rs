//! A folder of shards as a run reads it.

use super::prepare::{Kind, MANIFEST, Manifest};
use super::shard::Shard;
use super::{Hash, tokenizer_hash};
use crate::{Error, Result, TrainOptions};
use parloop_eval::Labelled;
use parloop_model::{TextSettings, Tokenizer};
use rayon::prelude::*;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Shards, mapped and verified, as one row of ids and documents.
#[derive(Clone, Debug)]
pub struct Prepared {
    folder: PathBuf,
    manifest: Manifest,
    shards: Vec<Shard>,
    /// Ids and documents before each shard.
    before: Vec<(usize, usize)>,
    tokenizer: Tokenizer,
    settings: TextSettings,
    content: u64,
}

impl Prepared {
    /// Whether a path is such a folder.
    pub fn is_in(path: &Path) -> bool {
        path.join(MANIFEST).is_file()
    }

    /// Opens a folder, reads all of it once and compares it with its hashes.
    ///
    /// # Errors
    /// A file is missing or has changed.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let wrong = |path: &Path, message: String| Error::Prepared { path: path.to_owned(), message };
        let manifest = Manifest::read(folder)?;
        let vocabulary = manifest.vocabulary;
        let config = TrainOptions::default().model_config(vocabulary, None)?;
        let found = Tokenizer::read(folder, &config)?;
        let tokenizer = found.ok_or_else(|| wrong(folder, "has no tokenizer; prepare it again".into()))?;
        if format!("{:016x}", tokenizer_hash(&tokenizer)) != manifest.tokenizer {
            return Err(wrong(folder, "has another tokenizer than its manifest says; prepare it again".into()));
        }
        let (mut shards, mut before, mut sum, mut content) = (Vec::new(), Vec::new(), (0, 0), Hash::new());
        for entry in &manifest.shards {
            let path = folder.join(Path::new(&entry.file).file_name().unwrap_or_default());
            let shard = Shard::open(&path)?;
            let same = format!("{:016x}", shard.content()) == entry.hash
                && (shard.tokens() as u64, shard.documents() as u64) == (entry.tokens, entry.documents)
                && shard.is_masked() == (manifest.kind == Kind::Answers);
            if !same {
                return Err(wrong(&path, "is not the shard that the manifest names; prepare the data again".into()));
            }
            before.push(sum);
            sum = (sum.0 + shard.tokens(), sum.1 + shard.documents());
            content.add(&shard.content().to_le_bytes());
            shards.push(shard);
        }
        if sum.0 == 0 || (sum.0 as u64, sum.1 as u64) != (manifest.tokens, manifest.documents) {
            return Err(wrong(&path, "names shards that do not hold what it says; prepare the data again".into()));
        }
        shards.par_iter().try_for_each(|shard| shard.verify(vocabulary))?;
        let settings = parloop_model::text::TextSettings::read(folder, &config)?;
        Ok(Self { folder: folder.to_owned(), manifest, shards, before, tokenizer, settings, content: content.0 })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// What it says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The tokenizer that made the ids.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What came with the tokenizer: the chat template, special tokens.
    pub fn settings(&self) -> &TextSettings {
        &self.settings
    }

    /// A hash of all ids, masks and ends: the same data, the same number.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// Number of ids.
    pub fn tokens(&self) -> usize {
        self.manifest.tokens as usize
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.manifest.documents as usize
    }

    /// Source files that are no longer what they were when they were read, with what is different.
    ///
    /// # Errors
    /// One cannot be read for another reason than that it is gone.
    pub fn changed_sources(&self) -> Result<Vec<(PathBuf, &'static str)>> {
        let changed = |file: &super::SourceFile| -> Result<Option<(PathBuf, &'static str)>> {
            if file.path == Path::new("-") {
                return Ok(None);
            }
            let bytes = match fs::metadata(&file.path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Some((file.path.clone(), "is gone"))),
                meta => meta.map_err(|e| Error::io("read", &file.path, e))?.len(),
            };
            let hash = || -> Result<String> {
                let mut hash = Hash::new();
                let mut input = fs::File::open(&file.path).map_err(|e| Error::io("read", &file.path, e))?;
                let mut buffer = vec![0; 1 << 20];
                loop {
                    match std::io::Read::read(&mut input, &mut buffer).map_err(|e| Error::io("read", &file.path, e))? {
                        0 => return Ok(format!("{:016x}", hash.0)),
                        got => hash.add(&buffer[..got]),
                    }
                }
            };
            Ok((bytes != file.bytes || hash()? != file.hash).then(|| (file.path.clone(), "has changed")))
        };
        let all: Result<Vec<_>> = self.manifest.sources.par_iter().map(changed).collect();
        Ok(all?.into_iter().flatten().collect())
    }

    /// Where a document begins and ends among all ids, and the bytes of its text.
    pub fn document(&self, n: usize) -> (Range<usize>, u64) {
        let at = self.before.partition_point(|(_, documents)| *documents <= n) - 1;
        let (tokens, documents) = self.before[at];
        let (range, text) = self.shards[at].document(n - documents);
        (tokens + range.start..tokens + range.end, text)
    }

    /// Ids by position; positions past the end give nothing.
    pub fn ids(&self, range: Range<usize>) -> Vec<u32> {
        let mut ids = Vec::with_capacity(range.len().min(self.tokens()));
        let first = self.before.partition_point(|(tokens, _)| *tokens <= range.start) - 1;
        for (shard, (tokens, _)) in self.shards.iter().zip(&self.before).skip(first) {
            if *tokens >= range.end {
                break;
            }
            ids.extend(shard.ids(range.start.saturating_sub(*tokens)..range.end - tokens));
        }
        ids
    }

    /// A document as ids with targets: what is asked for of the ids that follow.
    pub(super) fn row(&self, n: usize) -> Labelled {
        let (range, _) = self.document(n);
        let at = self.before.partition_point(|(_, documents)| *documents <= n) - 1;
        let (shard, offset) = (&self.shards[at], self.before[at].0);
        let mut ids = shard.ids(range.start - offset..range.end - offset);
        let first = range.start - offset;
        let targets = (1..ids.len()).map(|i| shard.is_asked(first + i).then_some(ids[i])).collect();
        ids.pop();
        Labelled { ids, targets, levels: Vec::new() }
    }
}

/// Prepared text cut into what is trained on and what validates, at the end of a document if there are several.
#[derive(Clone, Debug)]
pub(super) struct Split {
    pub data: Prepared,
    pub train: usize,
    pub val: usize,
    pub val_text: u64,
}

impl Split {
    pub(super) fn new(data: Prepared, val_fraction: f64) -> Self {
        let (all, documents) = (data.tokens(), data.documents());
        let wanted = (all as f64 * (1.0 - val_fraction)) as usize;
        // The first document that would go beyond begins the validation text; a single one is cut.
        let (mut low, mut high) = (0, documents);
        while low < high {
            let middle = (low + high) / 2;
            if data.document(middle).0.end <= wanted { low = middle + 1 } else { high = middle }
        }
        let (mut train, first) = if low == documents { (all, documents) } else { (data.document(low).0.start, low) };
        let mut val_text: u64 = (first..documents).map(|n| data.document(n).1).sum();
        if train == 0 {
            train = wanted;
            val_text = (val_text as f64 * (all - train) as f64 / all as f64) as u64;
        }
        Self { train, val: all - train, val_text, data }
    }
}
