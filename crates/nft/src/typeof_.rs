//! What makes `nft list` readable: the user data of a set says what each field of a key is ("ip daddr", "th dport"), in
//! the encoding of nft's own TLVs; and the comments.

use crate::value::{DataKind, Family, Field, Layout, SetSpec};

const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;
const DATA_INTERVAL: u8 = 6;

const HOST_ORDER: u32 = 1;

const EXPR_PAYLOAD: u32 = 7;
const EXPR_META: u32 = 9;
const EXPR_CONCAT: u32 = 13;
const EXPR_NUMGEN: u32 = 23;

fn tlv(out: &mut Vec<u8>, kind: u8, data: &[u8]) {
    out.extend([kind, u8::try_from(data.len()).unwrap_or(u8::MAX)]);
    out.extend(data);
}

fn word(out: &mut Vec<u8>, kind: u8, value: u32) {
    tlv(out, kind, &value.to_ne_bytes());
}

/// The comment of a rule or an element. The kernel takes 255 bytes with the final zero.
pub(crate) fn comment(text: &str) -> Vec<u8> {
    let mut cut = text.len().min(250);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut bytes = text.as_bytes()[..cut].to_vec();
    bytes.push(0);
    let mut out = vec![];
    tlv(&mut out, 0, &bytes);
    out
}

pub(crate) fn comment_of(user_data: &[u8]) -> Option<&str> {
    let (&[0, len], rest) = user_data.split_first_chunk::<2>()? else { return None };
    let text = rest.get(..usize::from(len))?;
    std::str::from_utf8(text.strip_suffix(&[0]).unwrap_or(text)).ok()
}

fn payload(protocol: u32, field: u32) -> (u32, Vec<u8>) {
    let mut data = vec![];
    word(&mut data, 0, protocol);
    word(&mut data, 1, field);
    (EXPR_PAYLOAD, data)
}

/// nft's numbers for the expression that yields a field.
fn field_expr(family: Family, field: Field) -> (u32, Vec<u8>) {
    match (field, family) {
        (Field::Addr, Family::Ip) => payload(12, 12),
        (Field::Addr, Family::Ip6) => payload(13, 9),
        (Field::Port, _) => payload(11, 2),
        (Field::Proto, _) => {
            let mut data = vec![];
            word(&mut data, 0, 16);
            (EXPR_META, data)
        }
        (Field::Number | Field::Mark, _) => {
            let mut data = vec![];
            word(&mut data, 0, 1);
            word(&mut data, 1, 2);
            word(&mut data, 2, 0);
            (EXPR_NUMGEN, data)
        }
    }
}

fn typed(expr: u32, data: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    word(&mut out, 0, expr);
    tlv(&mut out, 1, data);
    out
}

fn type_of(family: Family, fields: &[Field]) -> Vec<u8> {
    if let [one] = fields {
        let (expr, data) = field_expr(family, *one);
        return typed(expr, &data);
    }
    let mut parts = vec![];
    for (i, field) in fields.iter().enumerate() {
        let (expr, data) = field_expr(family, *field);
        tlv(&mut parts, i as u8, &typed(expr, &data));
    }
    typed(EXPR_CONCAT, &parts)
}

fn byte_order(fields: &[Field]) -> u32 {
    if matches!(fields, [Field::Number | Field::Mark]) { HOST_ORDER } else { 0 }
}

/// Only keys and data with a number in them need it: a concatenation of plain integers makes nft abort without. Where it
/// would not fit the kernel's 256 bytes the plain types say enough.
pub(crate) fn user_data(family: Family, spec: &SetSpec) -> Vec<u8> {
    let data_fields: &[Field] = match &spec.data {
        DataKind::Fields(fields) => fields,
        _ => &[],
    };
    let mut out = vec![];
    word(&mut out, KEY_BYTE_ORDER, byte_order(&spec.key));
    word(&mut out, DATA_BYTE_ORDER, if spec.data == DataKind::Verdict { 0 } else { byte_order(data_fields) });
    let needs_names = spec.key.len() > 1 && spec.key.contains(&Field::Number) && spec.layout == Layout::Exact;
    if needs_names {
        tlv(&mut out, KEY_TYPEOF, &type_of(family, &spec.key));
        if !data_fields.is_empty() {
            tlv(&mut out, DATA_TYPEOF, &type_of(family, data_fields));
        }
        word(&mut out, DATA_INTERVAL, 0);
    }
    out
}
