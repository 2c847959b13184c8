//! The types of RFC 4251, section 5.

/// What was read is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Takes values off the front of a message.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// So many bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// # Errors
    /// As [`Reader::take`].
    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    /// # Errors
    /// As [`Reader::take`].
    pub fn boolean(&mut self) -> Result<bool, Malformed> {
        Ok(self.byte()? != 0)
    }

    /// # Errors
    /// As [`Reader::take`].
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// A string, which is bytes.
    ///
    /// # Errors
    /// As [`Reader::take`].
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// A string that is UTF-8.
    ///
    /// # Errors
    /// As [`Reader::take`], or it is not.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.string()?).map_err(|_| Malformed)
    }

    /// A positive number without leading zeros, as ring wants it.
    ///
    /// # Errors
    /// It is negative, or cut short.
    pub fn positive(&mut self) -> Result<&'a [u8], Malformed> {
        let bytes = self.string()?;
        if bytes.first().is_some_and(|first| first & 0x80 != 0) {
            return Err(Malformed);
        }
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        Ok(&bytes[zeros..])
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// # Errors
    /// Something is left.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Writes values one after the other.
#[derive(Debug, Default, Clone)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A message of this number.
    pub fn message(number: u8) -> Self {
        Self(vec![number])
    }

    #[must_use]
    pub fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    #[must_use]
    pub fn boolean(self, value: bool) -> Self {
        self.byte(u8::from(value))
    }

    #[must_use]
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    #[must_use]
    pub fn string(self, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        self.u32(bytes.len() as u32).raw(bytes)
    }

    /// A positive number of big-endian bytes.
    #[must_use]
    pub fn positive(self, bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let bytes = &bytes[zeros..];
        let sign = bytes.first().is_some_and(|first| first & 0x80 != 0);
        let writer = self.u32((bytes.len() + usize::from(sign)) as u32);
        if sign { writer.byte(0).raw(bytes) } else { writer.raw(bytes) }
    }

    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(a: u32, b: bool, c: Vec<u8>, d in "\\PC{0,40}", n in proptest::collection::vec(any::<u8>(), 0..40)) {
            let bytes = Writer::message(7).u32(a).boolean(b).string(&c).string(&d).positive(&n).done();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.byte(), Ok(7));
            prop_assert_eq!(reader.u32(), Ok(a));
            prop_assert_eq!(reader.boolean(), Ok(b));
            prop_assert_eq!(reader.string(), Ok(c.as_slice()));
            prop_assert_eq!(reader.text(), Ok(d.as_str()));
            let zeros = n.iter().take_while(|byte| **byte == 0).count();
            prop_assert_eq!(reader.positive(), Ok(&n[zeros..]));
            prop_assert!(reader.end().is_ok());
        }

        #[test]
        fn anything_can_be_read_without_harm(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while reader.string().is_ok() && !reader.rest().is_empty() {}
            let _ = Reader::new(&bytes).positive();
        }
    }
}
