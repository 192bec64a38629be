//! The text column of parquet files, by Apache's own crate without Arrow.

use crate::{Error, Result};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use parquet::schema::types::Type;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

/// Hands on the text of each row; rows without one are left out.
///
/// # Errors
/// The file is no parquet file, is damaged, or has no such column of text; or `take` fails.
pub(super) fn read(path: &Path, column: &str, take: &mut dyn FnMut(String) -> Result<()>) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let wrong = |message: String| Error::Prepared { path: path.to_owned(), message };
    let damaged = |e: &dyn std::fmt::Display| wrong(format!("cannot be read as parquet: {e}"));
    // The crate checks most of what a damaged file may say, and panics at some of the rest.
    let guarded = |work: &mut dyn FnMut() -> Result<()>| {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(damaged(&"a part of it is not what it says")))
    };
    guarded(&mut || {
        let file = file.try_clone().map_err(|e| Error::io("read", path, e))?;
        let reader = SerializedFileReader::new(file).map_err(|e| damaged(&e))?;
        let schema = reader.metadata().file_metadata().schema();
        let Some(field) = schema.get_fields().iter().find(|field| field.name() == column) else {
            let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
            let message =
                format!("has the columns {}, expected {column}; name the column of the text", names.join(", "));
            return Err(wrong(message));
        };
        let group = Type::group_type_builder(schema.name()).with_fields(vec![Arc::clone(field)]).build();
        let rows = reader.get_row_iter(Some(group.map_err(|e| damaged(&e))?)).map_err(|e| damaged(&e))?;
        for row in rows {
            let row = row.map_err(|e| damaged(&e))?;
            match row.get_column_iter().next().map(|(_, value)| value) {
                Some(parquet::record::Field::Str(_)) => {
                    take(row.get_string(0).map_err(|e| damaged(&e))?.clone())?;
                }
                Some(parquet::record::Field::Null) | None => {}
                Some(_) => return Err(wrong(format!("has a column {column} that is no text"))),
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    fn written(path: &Path, compression: Compression) {
        let schema = "message m { required int32 id; optional binary text (UTF8); }";
        let properties = WriterProperties::builder().set_compression(compression).build();
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
        for group in 0..2 {
            let mut rows = writer.next_row_group().unwrap();
            let mut column = rows.next_column().unwrap().unwrap();
            column.typed::<Int32Type>().write_batch(&[1, 2, 3], None, None).unwrap();
            column.close().unwrap();
            let mut column = rows.next_column().unwrap().unwrap();
            let texts = ["one é", "three"].map(|text| ByteArray::from(format!("{text} {group}").into_bytes()));
            column.typed::<ByteArrayType>().write_batch(&texts, Some(&[1, 0, 1]), None).unwrap();
            column.close().unwrap();
            rows.close().unwrap();
        }
        writer.close().unwrap();
    }

    fn texts(path: &Path, column: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        read(path, column, &mut |text| {
            found.push(text);
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn a_column_is_read_and_what_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(ZstdLevel::default())] {
            written(&path, compression);
            assert_eq!(texts(&path, "text").unwrap(), ["one é 0", "three 0", "one é 1", "three 1"]);
        }
        let message = texts(&path, "body").unwrap_err().to_string();
        assert!(message.contains("a.parquet: has the columns id, text, expected body"), "{message}");
        let message = texts(&path, "id").unwrap_err().to_string();
        assert!(message.contains("no text"), "{message}");
        // Changed bytes are read or refused, but never end the program.
        let good = std::fs::read(&path).unwrap();
        for cut in 0..good.len() {
            std::fs::write(&path, &good[..cut]).unwrap();
            assert!(texts(&path, "text").is_err(), "{cut}");
        }
        std::panic::set_hook(Box::new(|_| {}));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x55;
            std::fs::write(&path, bad).unwrap();
            let _ = texts(&path, "text");
        }
        drop(std::panic::take_hook());
    }
}
