//! A second reader of JSON, written from RFC 8259 and nothing else: one character after the other, names
//! and texts as units of UTF-16, numbers as they are written. It shares no line with the reader that the
//! gateway uses, so that both are hardly wrong in the same place.

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slow {
    Null,
    Bool(bool),
    Number(String),
    Text(Vec<u16>),
    List(Vec<Slow>),
    /// Each name once: its last value, where it first stood.
    Map(Vec<(Vec<u16>, Slow)>),
}

/// `None`: it is no JSON.
pub fn read(bytes: &[u8]) -> Option<Slow> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut reader = Reader { rest: text.chars().collect(), at: 0 };
    reader.space();
    let value = reader.value()?;
    reader.space();
    (reader.at == reader.rest.len()).then_some(value)
}

impl Slow {
    pub fn get(&self, name: &str) -> Option<&Self> {
        let name: Vec<u16> = name.encode_utf16().collect();
        match self {
            Self::Map(fields) => fields.iter().find(|it| it.0 == name).map(|it| &it.1),
            _ => None,
        }
    }

    /// With half of a surrogate pair as U+FFFD.
    pub fn text(&self) -> Option<String> {
        if let Self::Text(units) = self { Some(String::from_utf16_lossy(units)) } else { None }
    }
}

struct Reader {
    rest: Vec<char>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, word: &str) -> Option<()> {
        word.chars().all(|it| self.next() == Some(it)).then_some(())
    }

    fn value(&mut self) -> Option<Slow> {
        Some(match self.peek()? {
            'n' => self.expect("null").map(|()| Slow::Null)?,
            't' => self.expect("true").map(|()| Slow::Bool(true))?,
            'f' => self.expect("false").map(|()| Slow::Bool(false))?,
            '"' => Slow::Text(self.string()?),
            '[' => Slow::List(self.list()?),
            '{' => Slow::Map(self.map()?),
            _ => Slow::Number(self.number()?),
        })
    }

    fn list(&mut self) -> Option<Vec<Slow>> {
        self.expect("[")?;
        self.space();
        let mut items = Vec::new();
        if self.peek() == Some(']') {
            self.at += 1;
            return Some(items);
        }
        loop {
            self.space();
            items.push(self.value()?);
            self.space();
            match self.next()? {
                ',' => (),
                ']' => return Some(items),
                _ => return None,
            }
        }
    }

    fn map(&mut self) -> Option<Vec<(Vec<u16>, Slow)>> {
        self.expect("{")?;
        self.space();
        let mut fields: Vec<(Vec<u16>, Slow)> = Vec::new();
        if self.peek() == Some('}') {
            self.at += 1;
            return Some(fields);
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            self.expect(":")?;
            self.space();
            let value = self.value()?;
            match fields.iter_mut().find(|it| it.0 == name) {
                Some(known) => known.1 = value,
                None => fields.push((name, value)),
            }
            self.space();
            match self.next()? {
                ',' => (),
                '}' => return Some(fields),
                _ => return None,
            }
        }
    }

    fn string(&mut self) -> Option<Vec<u16>> {
        self.expect("\"")?;
        let mut units = Vec::new();
        loop {
            match self.next()? {
                '"' => return Some(units),
                '\\' => units.push(self.escape()?),
                control if control < ' ' => return None,
                other => units.extend_from_slice(other.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn escape(&mut self) -> Option<u16> {
        Some(match self.next()? {
            '"' => 0x22,
            '\\' => 0x5c,
            '/' => 0x2f,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'u' => {
                let mut unit = 0;
                for _ in 0..4 {
                    unit = unit * 16 + self.next()?.to_digit(16)?;
                }
                unit as u16
            }
            _ => return None,
        })
    }

    fn number(&mut self) -> Option<String> {
        let start = self.at;
        if self.peek() == Some('-') {
            self.at += 1;
        }
        match self.next()? {
            '0' => (),
            '1'..='9' => drop(self.digits()),
            _ => return None,
        }
        if self.peek() == Some('.') {
            self.at += 1;
            self.digits().filter(|it| *it > 0)?;
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            self.at += 1;
            if matches!(self.peek(), Some('+' | '-')) {
                self.at += 1;
            }
            self.digits().filter(|it| *it > 0)?;
        }
        Some(self.rest[start..self.at].iter().collect())
    }

    /// How many there are.
    fn digits(&mut self) -> Option<usize> {
        let start = self.at;
        while self.peek().is_some_and(|it| it.is_ascii_digit()) {
            self.at += 1;
        }
        Some(self.at - start)
    }
}
