//! The text form of a label selector: tokens, then requirements.

use std::collections::BTreeSet;

use super::{Error, Operator, Requirement};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'a str),
    End,
}

/// Reads a whole selector.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, Error> {
    let mut parser = Parser { tokens: tokens(text), at: 0 };
    let mut requirements = Vec::new();
    if parser.peek() == Token::End {
        return Ok(requirements);
    }
    loop {
        requirements.push(parser.requirement()?);
        match parser.next() {
            Token::End => return Ok(requirements),
            Token::Sign(",") => parser.expect_start()?,
            other => return Err(unexpected(other, "',' or 'end of string'")),
        }
    }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if is_sign(first) { sign_length(rest) } else { word_length(rest) };
        let (token, tail) = rest.split_at(length);
        found.push(if is_sign(first) { Token::Sign(token) } else { Token::Word(token) });
        rest = tail.trim_start();
    }
    found
}

fn is_sign(c: char) -> bool {
    "=!(),<>".contains(c)
}

fn sign_length(text: &str) -> usize {
    if text.starts_with("==") || text.starts_with("!=") { 2 } else { 1 }
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| is_sign(c) || c.is_whitespace()).unwrap_or(text.len())
}

fn unexpected(found: Token<'_>, expected: &str) -> Error {
    let text = match found {
        Token::Word(text) | Token::Sign(text) => text,
        Token::End => "",
    };
    Error::Syntax(format!("found '{text}', expected: {expected}"))
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn expect_start(&self) -> Result<(), Error> {
        match self.peek() {
            Token::Word(_) | Token::Sign("!") => Ok(()),
            other => Err(unexpected(other, "identifier after ','")),
        }
    }

    fn requirement(&mut self) -> Result<Requirement, Error> {
        let absent = self.peek() == Token::Sign("!");
        if absent {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key.to_string(),
            other if absent => return Err(unexpected(other, "identifier")),
            other => return Err(unexpected(other, "!, identifier, or 'end of string'")),
        };
        let (operator, values) = match self.peek() {
            _ if absent => (Operator::Absent, BTreeSet::new()),
            Token::End | Token::Sign(",") => (Operator::Exists, BTreeSet::new()),
            _ => self.condition()?,
        };
        Ok(Requirement { key, operator, values })
    }

    fn condition(&mut self) -> Result<(Operator, BTreeSet<String>), Error> {
        match self.next() {
            Token::Sign("=" | "==") => Ok((Operator::In, self.value()?)),
            Token::Sign("!=") => Ok((Operator::NotIn, self.value()?)),
            Token::Sign(">") => Ok((Operator::Greater, self.value()?)),
            Token::Sign("<") => Ok((Operator::Less, self.value()?)),
            Token::Word("in") => Ok((Operator::In, self.set()?)),
            Token::Word("notin") => Ok((Operator::NotIn, self.set()?)),
            other => Err(unexpected(other, "in, notin, =, ==, !=, gt, lt")),
        }
    }

    fn value(&mut self) -> Result<BTreeSet<String>, Error> {
        match self.peek() {
            Token::End | Token::Sign(",") => Ok(BTreeSet::from([String::new()])),
            Token::Word(word) => {
                self.next();
                Ok(BTreeSet::from([word.to_string()]))
            }
            other => Err(unexpected(other, "identifier")),
        }
    }

    /// `(a, b)`; an empty place between commas is the empty value.
    fn set(&mut self) -> Result<BTreeSet<String>, Error> {
        match self.next() {
            Token::Sign("(") => {}
            other => return Err(unexpected(other, "'('")),
        }
        let mut values = BTreeSet::new();
        loop {
            let value = match self.peek() {
                Token::Word(word) => {
                    self.next();
                    word
                }
                _ => "",
            };
            values.insert(value.to_string());
            match self.next() {
                Token::Sign(",") => {}
                Token::Sign(")") => return Ok(values),
                other => return Err(unexpected(other, "',' or ')'")),
            }
        }
    }
}
