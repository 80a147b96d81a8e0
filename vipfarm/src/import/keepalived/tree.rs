//! The syntax of `keepalived.conf` (keepalived.conf(5)): words on lines, blocks in braces.
//!
//! A statement is the words of a line; a `{` behind them, on that line or the next, opens its block.
//! `!` and `#` begin a comment wherever they stand, but not inside double quotes.

use std::{iter::Peekable, str::Chars};

use super::super::account::Notes;
use crate::config::Pos;

/// Blocks in blocks: keepalived's own go to four.
const DEEPEST: usize = 32;

/// A word and its place.
#[derive(Debug, Clone)]
pub(super) struct Word {
    pub(super) at: Pos,
    pub(super) text: String,
}

/// The words of a line, and what is in their block.
#[derive(Debug, Default)]
pub(super) struct Statement {
    /// At least one.
    pub(super) words: Vec<Word>,
    /// `None` without braces.
    pub(super) block: Option<Vec<Statement>>,
}

impl Statement {
    /// The first word.
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", |word| &word.text)
    }

    /// The second word.
    pub(super) fn argument(&self) -> Option<&Word> {
        self.words.get(1)
    }

    pub(super) fn at(&self) -> Pos {
        self.words.first().map_or(Pos::FILE, |word| word.at)
    }

    /// What is in the block.
    pub(super) fn inner(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// Reads a file; what is wrong with it goes to the notes.
pub(super) fn parse(text: &str, notes: &mut Notes) -> Vec<Statement> {
    let mut parser = Parser::default();
    let mut tokens = Tokens { chars: text.chars().peekable(), at: Pos { line: 1, column: 1 } };
    while let Some((at, token)) = tokens.next(notes) {
        if let Err((message, help)) = parser.take(at, token) {
            // What follows would only repeat it.
            notes.problem(at, message, help);
            return Vec::new();
        }
        // Also behind a condition.
        let behind = match &parser.line[..] {
            [condition, rest @ ..] if condition.text.starts_with('@') => rest,
            line => line,
        };
        if let [word] = behind
            && word.text.starts_with("include")
        {
            // A pattern for file names may have braces of its own.
            let at = tokens.at;
            let text = tokens.rest_of_line();
            parser.line.push(Word { at, text });
        }
    }
    parser.end_of_line();
    for (at, _, _) in &parser.open {
        notes.problem(*at, "this block is not closed", "add the missing `}`");
    }
    parser.done
}

enum Token {
    Word(String),
    Open,
    Close,
    Line,
}

struct Tokens<'a> {
    chars: Peekable<Chars<'a>>,
    at: Pos,
}

impl Tokens<'_> {
    fn next(&mut self, notes: &mut Notes) -> Option<(Pos, Token)> {
        loop {
            let at = self.at;
            let token = match *self.chars.peek()? {
                '\n' => Token::Line,
                '{' => Token::Open,
                '}' => Token::Close,
                '!' | '#' => {
                    while self.chars.peek().is_some_and(|c| *c != '\n') {
                        self.bump();
                    }
                    continue;
                }
                c if c.is_whitespace() => {
                    self.bump();
                    continue;
                }
                _ => return Some((at, Token::Word(self.word(notes)))),
            };
            self.bump();
            return Some((at, token));
        }
    }

    /// Characters up to white space, a brace or a comment; quotes keep them together.
    fn word(&mut self, notes: &mut Notes) -> String {
        let mut word = String::new();
        while let Some(&c) = self.chars.peek() {
            match c {
                '"' => self.quoted(&mut word, notes),
                '{' if word.ends_with('$') => self.parameter(&mut word),
                '{' | '}' | '!' | '#' => break,
                c if c.is_whitespace() => break,
                c => {
                    word.push(c);
                    self.bump();
                }
            }
        }
        word
    }

    /// `{NAME}` behind a `$`.
    fn parameter(&mut self, word: &mut String) {
        while let Some(&c) = self.chars.peek().filter(|c| !c.is_whitespace()) {
            word.push(c);
            self.bump();
            if c == '}' {
                break;
            }
        }
    }

    fn quoted(&mut self, word: &mut String, notes: &mut Notes) {
        let start = self.at;
        self.bump();
        while let Some(&c) = self.chars.peek() {
            if c == '\n' {
                break;
            }
            self.bump();
            match c {
                '"' => return,
                '\\' => {
                    if let Some(&escaped) = self.chars.peek().filter(|c| **c != '\n') {
                        word.push(escaped);
                        self.bump();
                    }
                }
                c => word.push(c),
            }
        }
        notes.problem(start, "this quotation does not end on its line", "add the closing quote");
    }

    /// What is left of the line, without its end.
    fn rest_of_line(&mut self) -> String {
        let mut rest = String::new();
        while let Some(&c) = self.chars.peek().filter(|c| **c != '\n') {
            rest.push(c);
            self.bump();
        }
        rest.trim().to_owned()
    }

    fn bump(&mut self) {
        match self.chars.next() {
            Some('\n') => self.at = Pos { line: self.at.line.saturating_add(1), column: 1 },
            _ => self.at.column = self.at.column.saturating_add(1),
        }
    }
}

#[derive(Default)]
struct Parser {
    /// Blocks not yet closed: where they open, their words, and the statements outside so far.
    open: Vec<(Pos, Vec<Word>, Vec<Statement>)>,
    /// Statements of the innermost block.
    done: Vec<Statement>,
    line: Vec<Word>,
}

/// What is wrong, and what to do about it.
type Problem = (&'static str, &'static str);

impl Parser {
    fn take(&mut self, at: Pos, token: Token) -> Result<(), Problem> {
        match token {
            Token::Word(text) => self.line.push(Word { at, text }),
            Token::Line => self.end_of_line(),
            Token::Open => return self.open(at),
            Token::Close => return self.close(),
        }
        Ok(())
    }

    fn open(&mut self, at: Pos) -> Result<(), Problem> {
        let mut words = std::mem::take(&mut self.line);
        // On a line of its own it belongs to the line before.
        if words.is_empty() && self.done.last().is_some_and(|last| last.block.is_none()) {
            words = self.done.pop().map_or_else(Vec::new, |last| last.words);
        }
        if words.is_empty() {
            return Err(("this block has no name", "write its keyword before the `{`"));
        }
        if self.open.len() == DEEPEST {
            return Err(("too many blocks in one another", "check the braces before this place"));
        }
        let outside = std::mem::take(&mut self.done);
        self.open.push((at, words, outside));
        Ok(())
    }

    fn close(&mut self) -> Result<(), Problem> {
        self.end_of_line();
        let Some((_, words, outside)) = self.open.pop() else {
            return Err(("this `}` closes nothing", "remove it, or add the missing `{`"));
        };
        let block = Some(std::mem::replace(&mut self.done, outside));
        self.done.push(Statement { words, block });
        Ok(())
    }

    fn end_of_line(&mut self) {
        if !self.line.is_empty() {
            let words = std::mem::take(&mut self.line);
            self.done.push(Statement { words, block: None });
        }
    }
}
