//! `tidegate destinations kinds`: the kinds that this program knows, without a gateway.

use super::Context;
use crate::{
    cli::error::{CliError, Result},
    resources::kinds::KindView,
};

/// Print all kinds, or those of these words, each with an example and its fields.
pub fn run(context: &Context, word: Option<&str>, is_json: bool) -> Result<()> {
    let mut all = KindView::all();
    if let Some(word) = word {
        let words: Vec<&str> = all.iter().map(|it| it.kind).collect();
        if !words.contains(&word) {
            let there = words.join(", ");
            return Err(CliError::usage(format!("there is no kind `{word}`: there are {there}")));
        }
        all.retain(|it| it.kind == word);
    }
    for view in all {
        if is_json {
            let line = serde_json::to_string(&view);
            let failed = |error| CliError::failed(format!("it cannot be shown: {error}"));
            context.out.line(line.map_err(failed)?)?;
        } else {
            context.out.text(&screen(&view, word.is_some()))?;
        }
    }
    Ok(())
}

/// The title and the example; `is_full`: and each field.
fn screen(view: &KindView, is_full: bool) -> String {
    let mut text = format!("{}  {}\n  {}\n\n", view.kind, view.title, view.help);
    for line in view.example.lines() {
        text.push_str(&format!("    {line}\n"));
    }
    text.push('\n');
    if !is_full {
        return text;
    }
    let fields = view.schema["properties"].as_object().into_iter().flatten();
    for (name, field) in fields {
        let about = field["description"].as_str().unwrap_or_default().replace('\n', " ");
        text.push_str(&format!("  {name}\n"));
        if !about.is_empty() {
            text.push_str(&format!("      {about}\n"));
        }
    }
    text
}
