//! TensorBoard's event files: TFRecord frames around small protocol buffers, of which only scalars are needed.
//!
//! A frame is the length (8 bytes), its masked CRC-32C, the data, its masked CRC-32C (tensorflow/core/lib/io/
//! record_writer.h). An event has field 1 `wall_time` (double), 2 `step` (int64), 3 `file_version` (string), 5 `summary`
//! or 7 `session_log`; a summary repeats field 1, values with 1 `tag` (string) and 2 `simple_value` (float)
//! (tensorflow/core/util/event.proto, framework/summary.proto).

use super::LogRow;
use crate::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// `SessionLog::START`: what other files hold from this step on is void.
const START: u64 = 1;

/// An open file of events.
pub(super) struct Board {
    file: File,
    path: PathBuf,
}

impl Board {
    /// A new file in a folder, for a run that has taken `step` steps.
    pub(super) fn open(folder: &Path, step: usize) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let path = folder.join(format!("events.out.tfevents.{now:020}.parloop"));
        let file = File::create(&path).map_err(|e| Error::io("write", &path, e))?;
        let mut board = Self { file, path };
        let mut version = Message::default();
        version.bytes(3, b"brain.Event:2");
        board.event(0, version)?;
        let (mut log, mut start) = (Message::default(), Message::default());
        log.number(1, START);
        start.bytes(7, &log.0);
        board.event(step + 1, start)?;
        Ok(board)
    }

    pub(super) fn write(&mut self, row: &LogRow) -> Result<()> {
        let scales = row.scales.map_or((None, None), |(hidden, embedding)| (Some(hidden), embedding));
        let values = [
            ("loss/train", Some(row.loss)),
            ("loss/validation", row.val_loss),
            ("loss/validation_bits_per_byte", row.val_bits_per_byte),
            ("optimiser/lr", Some(row.lr)),
            ("optimiser/grad_norm", Some(row.grad_norm)),
            ("optimiser/skipped", Some(row.skipped as f64)),
            ("speed/tokens_per_second", Some(row.tokens_per_second)),
            ("loops/count", row.loops.map(|loops| loops as f64)),
            ("loops/hidden_scale", scales.0.map(f64::from)),
            ("loops/embedding_scale", scales.1.map(f64::from)),
        ];
        let mut summary = Message::default();
        for (tag, value) in values.into_iter().filter_map(|(tag, value)| Some((tag, value?))) {
            let mut one = Message::default();
            one.bytes(1, tag.as_bytes());
            one.float(2, value as f32);
            summary.bytes(1, &one.0);
        }
        let mut event = Message::default();
        event.bytes(5, &summary.0);
        self.event(row.step, event)
    }

    fn event(&mut self, step: usize, rest: Message) -> Result<()> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let mut event = Message::default();
        event.double(1, time);
        event.number(2, step as u64);
        event.0.extend(rest.0);
        self.file.write_all(&frame(&event.0)).map_err(|e| Error::io("write", &self.path, e))
    }
}

/// A protocol buffer under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }
    fn number(&mut self, field: u64, n: u64) {
        self.varint(field << 3);
        self.varint(n);
    }
    fn double(&mut self, field: u64, x: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(x.to_le_bytes());
    }
    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }
    fn float(&mut self, field: u64, x: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(x.to_le_bytes());
    }
}

fn frame(data: &[u8]) -> Vec<u8> {
    let mut frame = (data.len() as u64).to_le_bytes().to_vec();
    frame.extend(masked(&frame).to_le_bytes());
    frame.extend(data);
    frame.extend(masked(data).to_le_bytes());
    frame
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a log line is a few hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn events_are_frames_of_messages() {
        let folder = tempfile::tempdir().unwrap();
        let mut board = Board::open(folder.path(), 7).unwrap();
        let row: LogRow = serde_json::from_str(
            r#"{"step":300,"loss":1.5,"lr":0.1,"grad_norm":null,"tokens":9,"tokens_per_second":2.0,"val_loss":2.5}"#,
        )
        .unwrap();
        board.write(&row).unwrap();
        let mut bytes = std::fs::read(&board.path).unwrap();
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            assert_eq!(bytes[8..12], masked(&bytes[..8]).to_le_bytes());
            assert_eq!(bytes[12 + length..16 + length], masked(&bytes[12..12 + length]).to_le_bytes());
            events.push(bytes[12..12 + length].to_vec());
            bytes.drain(..16 + length);
        }
        assert_eq!(events.len(), 3);
        let holds = |event: &[u8], part: &[u8]| event.windows(part.len()).any(|window| window == part);
        assert!(holds(&events[0], b"brain.Event:2"));
        // Field 2 is the step as a varint: 300 = 0b10_0101100.
        assert_eq!(events[2][9..12], [0x10, 0xac, 0x02]);
        let value = [&b"loss/train\x15"[..], &1.5f32.to_le_bytes()].concat();
        assert!(holds(&events[2], &value), "{:?}", events[2]);
    }
}
