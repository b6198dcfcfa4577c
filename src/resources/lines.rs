//! What differs between two texts, line by line, in the form that `diff -u` writes.

use std::fmt::Write as _;

/// Lines around a change that are shown with it.
const CONTEXT: usize = 3;
/// Pairs of lines that are compared at most; beyond it, all of a text gives way to all of the other.
const MOST_PAIRS: usize = 4_000_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum DocumentLine<'a> {
    Same(&'a str),
    Gone(&'a str),
    New(&'a str),
}

/// The difference with its hunks. Empty when there is none.
pub(super) fn unified(before: &str, after: &str) -> String {
    let before: Vec<&str> = before.lines().collect();
    let after: Vec<&str> = after.lines().collect();
    let lines = compared(&before, &after);
    let mut text = String::new();
    let (mut old, mut new) = (1, 1);
    let mut place = 0;
    while let Some(first) = (place..lines.len()).find(|it| !is_same(lines[*it])) {
        let start = first.saturating_sub(CONTEXT).max(place);
        (old, new) = (old + start - place, new + start - place);
        let end = end_of_hunk(&lines, first);
        let hunk = &lines[start..end];
        let count =
            |wanted: fn(&DocumentLine<'_>) -> bool| hunk.iter().filter(|it| wanted(it)).count();
        let gone = count(|it| !matches!(it, DocumentLine::New(_)));
        let come = count(|it| !matches!(it, DocumentLine::Gone(_)));
        // Writing to a text cannot fail.
        let _ = writeln!(text, "@@ -{old},{gone} +{new},{come} @@");
        for line in hunk {
            let (sign, line) = match line {
                DocumentLine::Same(it) => (' ', it),
                DocumentLine::Gone(it) => ('-', it),
                DocumentLine::New(it) => ('+', it),
            };
            let _ = writeln!(text, "{sign}{line}");
        }
        (old, new, place) = (old + gone, new + come, end);
    }
    text
}

fn is_same(line: DocumentLine<'_>) -> bool {
    matches!(line, DocumentLine::Same(_))
}

/// Behind the lines that stand after the last change that is near enough.
fn end_of_hunk(lines: &[DocumentLine<'_>], first: usize) -> usize {
    let mut last = first;
    for (place, line) in lines.iter().enumerate().skip(first) {
        if !is_same(*line) {
            last = place;
        } else if place > last + 2 * CONTEXT {
            break;
        }
    }
    (last + 1 + CONTEXT).min(lines.len())
}

fn compared<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<DocumentLine<'a>> {
    let head = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let rest = before[head..].iter().rev().zip(after[head..].iter().rev());
    let tail = rest.take_while(|(a, b)| a == b).count();
    let middle = (&before[head..before.len() - tail], &after[head..after.len() - tail]);
    let mut lines: Vec<DocumentLine<'a>> =
        before[..head].iter().map(|it| DocumentLine::Same(it)).collect();
    lines.extend(changed(middle.0, middle.1));
    lines.extend(before[before.len() - tail..].iter().map(|it| DocumentLine::Same(it)));
    lines
}

/// By a longest common subsequence.
fn changed<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<DocumentLine<'a>> {
    let gone = before.iter().map(|it| DocumentLine::Gone(it));
    if before.len().saturating_mul(after.len()) > MOST_PAIRS {
        return gone.chain(after.iter().map(|it| DocumentLine::New(it))).collect();
    }
    // How many lines are common behind (a, b).
    let width = after.len() + 1;
    let mut common = vec![0_u32; (before.len() + 1) * width];
    for a in (0..before.len()).rev() {
        for b in (0..after.len()).rev() {
            common[a * width + b] = match before[a] == after[b] {
                true => common[(a + 1) * width + b + 1] + 1,
                false => common[(a + 1) * width + b].max(common[a * width + b + 1]),
            };
        }
    }
    let (mut a, mut b, mut lines) = (0, 0, Vec::new());
    while a < before.len() || b < after.len() {
        let is_same = a < before.len() && b < after.len() && before[a] == after[b];
        let goes = b == after.len()
            || a < before.len() && common[(a + 1) * width + b] >= common[a * width + b + 1];
        if is_same {
            lines.push(DocumentLine::Same(before[a]));
            (a, b) = (a + 1, b + 1);
        } else if goes {
            lines.push(DocumentLine::Gone(before[a]));
            a += 1;
        } else {
            lines.push(DocumentLine::New(after[b]));
            b += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_reads_like_diff_u() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm\nn\n";
        let after = "a\nb\nX\nd\ne\nf\ng\nh\ni\nj\nk\nl\nm\nY\nn\n";
        let expected = "@@ -1,6 +1,6 @@\n a\n b\n-c\n+X\n d\n e\n f\n\
                        @@ -11,4 +11,5 @@\n k\n l\n m\n+Y\n n\n";
        assert_eq!(unified(before, after), expected);
        assert_eq!(unified(before, before), "");
        assert_eq!(unified("", "a\n"), "@@ -1,0 +1,1 @@\n+a\n");
        assert_eq!(unified("a\nb\n", "b\n"), "@@ -1,2 +1,1 @@\n-a\n b\n");
    }

    #[test]
    fn changes_that_are_near_share_a_hunk() {
        let text = unified("1\n2\n3\n4\n5\n6\n7\n8\n9\n", "1\nx\n3\n4\n5\n6\n7\ny\n9\n");
        assert_eq!(text.matches("@@ -").count(), 1, "{text}");
        assert_eq!(text.matches("\n-").count() + text.matches("\n+").count(), 4, "{text}");
    }
}
