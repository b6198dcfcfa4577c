//! `tidegate directory`: what enrichment knows of people, companies and things of one's own.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde::Deserialize;
use url::form_urlencoded;

use super::{
    Context,
    client::pages,
    emit::progress_bar,
    error::{CliError, Result},
    output::{self, count, plural},
};
use crate::model::Name;

/// Show and import the data that enrichment looks up
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  tidegate directory import people.csv                      a row for each line; `email` is the key
  tidegate directory import crm.ndjson --table accounts     lines of JSON; `id` is the key
  tidegate directory list people
  tidegate directory get people ann@acme.com
  tidegate directory remove people ann@acme.com")]
pub enum Command {
    Import(ImportArgs),
    /// List the rows of a table, by key
    List {
        /// people, companies, or a table of the project's own
        #[arg(value_name = "TABLE")]
        table: Name,
        /// Rows, at most
        #[arg(long, short = 'n', default_value_t = 50)]
        limit: usize,
    },
    /// One row
    Get(One),
    /// Remove one row
    Remove(One),
}

/// Import rows from CSV (with a header) or NDJSON
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// A .csv, .ndjson or .jsonl file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// people, companies or one of your own tables (default: the file's name)
    #[arg(long, value_name = "TABLE")]
    table: Option<Name>,
    /// Key field (default: email for people, domain for companies, else id)
    #[arg(long, value_name = "FIELD")]
    key: Option<String>,
    /// Merge into existing rows instead of replacing them
    #[arg(long)]
    merge: bool,
}

/// Which row.
#[derive(Debug, clap::Args)]
pub struct One {
    /// people, companies, or a table of the project's own
    #[arg(value_name = "TABLE")]
    table: Name,
    /// Its key
    #[arg(value_name = "KEY")]
    key: String,
}

impl One {
    fn path(&self) -> String {
        // A space is `+` in a query only.
        let key: String = form_urlencoded::byte_serialize(self.key.as_bytes()).collect();
        format!("/api/v1/directory/{}/entries/{}", self.table, key.replace('+', "%20"))
    }
}

#[derive(Debug, Default, Deserialize)]
struct Imported {
    kept: u64,
    refused: u64,
    errors: Vec<RowError>,
}

#[derive(Debug, Deserialize)]
struct RowError {
    line: u64,
    rule: String,
}

pub async fn run(context: &Context, command: Command) -> Result<()> {
    match command {
        Command::Import(args) => import(context, args).await,
        Command::List { table, limit } => {
            let path = format!("/api/v1/directory/{table}");
            pages(&context.client, &path, Vec::new(), limit, |row| context.out.json_line(&row))
                .await
        }
        Command::Get(one) => {
            let row = context.client.get(&one.path(), &[]).await?;
            context.out.json(&row)
        }
        Command::Remove(one) => {
            context.client.delete(&one.path()).await?;
            context.out.line(format_args!("`{}` is gone from {}", one.key, one.table))
        }
    }
}

async fn import(context: &Context, args: ImportArgs) -> Result<()> {
    let extension = args.file.extension().and_then(|it| it.to_str()).unwrap_or_default();
    let content_type = match extension {
        "csv" => "text/csv",
        "ndjson" | "jsonl" => "application/x-ndjson",
        _ => return Err(CliError::usage("a file of rows ends in .csv, .ndjson or .jsonl")),
    };
    let table = match args.table {
        Some(table) => table,
        None => table_of(&args.file)?,
    };
    let mut query = Vec::new();
    query.extend(args.key.map(|it| ("key", it)));
    query.extend(args.merge.then(|| ("mode", "merge".to_owned())));
    let shown = args.file.display().to_string();
    let cannot = |source| CliError::File { what: format!("`{shown}` cannot be read"), source };
    let file = File::open(&args.file).map_err(cannot)?;
    let length = file.metadata().map_err(cannot)?.len();
    let mut pieces = Pieces::new(BufReader::new(file), content_type == "text/csv");
    let path = format!("/api/v1/directory/{table}/import");
    let bar = progress_bar(length);
    let mut all = Imported::default();
    while let Some(piece) = pieces.next().map_err(cannot)? {
        let answer = context.client.post_as(&path, &query, content_type, piece.body).await?;
        let imported: Imported = answer.read()?;
        bar.inc(piece.bytes);
        all.kept += imported.kept;
        all.refused += imported.refused;
        for error in imported.errors {
            let line = error.line + piece.lines_before;
            all.errors.push(RowError { line, ..error });
        }
        all.errors.truncate(MOST_ERRORS);
    }
    bar.finish_and_clear();
    let rows = plural(all.kept, "row");
    context.out.line(format_args!("{rows} of {table} imported from {shown}"))?;
    for error in &all.errors {
        output::note(format_args!("{shown}:{}: {}", error.line, error.rule));
    }
    match all.refused {
        0 => Ok(()),
        refused => Err(CliError::failed(format!("{} could not be imported", lines(refused)))),
    }
}

/// Errors that are shown.
const MOST_ERRORS: usize = 20;

fn lines(number: u64) -> String {
    if number == 1 { "1 line".to_owned() } else { format!("{} lines", count(number)) }
}

fn table_of(file: &Path) -> Result<Name> {
    let stem = file.file_stem().and_then(|it| it.to_str()).unwrap_or_default();
    stem.parse().map_err(|_| {
        CliError::usage("the name of the file does not say which table it is for")
            .then("name the table with --table")
    })
}

/// A file in pieces that a request can hold, each with the header, cut between rows.
struct Pieces<R> {
    input: R,
    /// Of CSV: its first line, once it was read.
    header: Option<Vec<u8>>,
    is_csv: bool,
    /// Lines that were read so far.
    lines: u64,
}

struct Piece {
    body: Bytes,
    /// How much of the file it is.
    bytes: u64,
    /// Lines of the file before the first one of the body, less the header that was added.
    lines_before: u64,
}

/// Bytes of a piece, roughly.
const PIECE: usize = 256 * 1024;

impl<R: BufRead> Pieces<R> {
    fn new(input: R, is_csv: bool) -> Self {
        Self { input, header: None, is_csv, lines: 0 }
    }

    fn next(&mut self) -> std::io::Result<Option<Piece>> {
        let mut bytes = 0;
        if self.is_csv && self.header.is_none() {
            let mut header = Vec::new();
            bytes += self.row(&mut header)?;
            if !header.ends_with(b"\n") {
                header.push(b'\n');
            }
            self.header = Some(header);
        }
        let header = self.header.clone().unwrap_or_default();
        let header_lines = header.iter().filter(|it| **it == b'\n').count() as u64;
        let lines_before = self.lines.saturating_sub(header_lines);
        let start = header.len();
        let mut body = header;
        loop {
            let read = self.row(&mut body)?;
            bytes += read;
            if read == 0 || body.len() >= PIECE {
                break;
            }
        }
        let has_rows = body.len() > start;
        Ok(has_rows.then(|| Piece { body: body.into(), bytes, lines_before }))
    }

    /// Adds one row with its end; in CSV that may be several lines.
    fn row(&mut self, into: &mut Vec<u8>) -> std::io::Result<u64> {
        let start = into.len();
        loop {
            let before = into.len();
            if self.input.read_until(b'\n', into)? == 0 {
                break;
            }
            self.lines += u64::from(into[before..].ends_with(b"\n"));
            let quotes = into[start..].iter().filter(|it| **it == b'"').count();
            if !self.is_csv || quotes % 2 == 0 {
                break;
            }
        }
        Ok((into.len() - start) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_between_rows_and_each_piece_has_the_header() {
        let row = |n: usize| format!("p{n}@acme.com,\"{}\nx\"\n", "y".repeat(5_000));
        let rows: Vec<String> = (0..120).map(row).collect();
        let text = format!("email,note\n{}", rows.concat());
        let mut pieces = Pieces::new(text.as_bytes(), true);
        let (mut seen, mut bytes) = (String::new(), 0);
        while let Some(piece) = pieces.next().unwrap() {
            let body = String::from_utf8(piece.body.to_vec()).unwrap();
            let rest = body.strip_prefix("email,note\n").unwrap();
            assert!(rest.ends_with("x\"\n") && body.len() < PIECE + 6_000);
            assert_eq!(piece.lines_before, seen.matches('\n').count() as u64);
            seen += rest;
            bytes += piece.bytes;
        }
        assert_eq!((seen, bytes), (rows.concat(), text.len() as u64));
    }

    #[test]
    fn a_file_without_rows_has_no_pieces() {
        for (text, is_csv) in [("", true), ("email", true), ("email\n", true), ("", false)] {
            assert!(Pieces::new(text.as_bytes(), is_csv).next().unwrap().is_none());
        }
        let piece = Pieces::new(&b"{\"id\":1}"[..], false).next().unwrap().unwrap();
        assert_eq!((&piece.body[..], piece.lines_before), (&b"{\"id\":1}"[..], 0));
    }
}
