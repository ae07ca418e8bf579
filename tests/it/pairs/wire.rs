//! HTTP/1.1 as both ends of these tests read it, strictly.

use std::io::{Error, ErrorKind, Result};

use hyper::http::HeaderMap;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, BufReader, ReadHalf, WriteHalf};

/// Name, in lower case, and value.
pub type Fields = Vec<(String, String)>;

/// A byte stream, under TLS or not.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}
pub type Io = Box<dyn Wire>;

pub type Writer = WriteHalf<Io>;

/// What comes.
pub struct Reader(BufReader<ReadHalf<Io>>);

pub fn split(io: Io) -> (Reader, Writer) {
    let (reader, writer) = tokio::io::split(io);
    (Reader(BufReader::new(reader)), writer)
}

/// Where a body ends.
#[derive(Debug)]
pub enum Framing {
    None,
    Length(usize),
    Chunked,
    Close,
    /// It has, with these trailers.
    Over(Fields),
}

impl Framing {
    pub fn of(fields: &Fields, response: bool) -> Framing {
        let value = |name: &str| {
            let mut values = fields.iter().filter(|(found, _)| found == name);
            let first = values.next().map(|(_, value)| value.as_str());
            assert!(values.next().is_none(), "{name} twice in {fields:?}");
            first
        };
        match (value("content-length"), value("transfer-encoding")) {
            (None, Some("chunked")) => Framing::Chunked,
            (Some(length), None) => Framing::Length(length.parse().expect("a length")),
            (None, None) if response => Framing::Close,
            (None, None) => Framing::None,
            _ => panic!("two framings: {fields:?}"),
        }
    }
}

impl Reader {
    /// A first line and fields; `None` at the end of the connection.
    pub async fn head(&mut self) -> Result<Option<(String, Fields)>> {
        let mut first = String::new();
        if self.0.read_line(&mut first).await? == 0 {
            return Ok(None);
        }
        let fields = self.fields().await?;
        Ok(Some((first.trim_end().to_owned(), fields)))
    }

    async fn fields(&mut self) -> Result<Fields> {
        let mut fields = Vec::new();
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let Some(line) = line.strip_suffix("\r\n") else { return Err(ErrorKind::InvalidData.into()) };
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').ok_or_else(|| Error::other(line.to_owned()))?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Some more of a body, or its end.
    pub async fn piece(&mut self, framing: &mut Framing) -> Result<Option<Vec<u8>>> {
        let wanted = match framing {
            Framing::None | Framing::Length(0) | Framing::Over(_) => return Ok(None),
            Framing::Length(left) => (*left).min(64 << 10),
            Framing::Close => 64 << 10,
            Framing::Chunked => {
                let mut line = String::new();
                if self.0.read_line(&mut line).await? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                let size = usize::from_str_radix(line.trim_end(), 16).map_err(Error::other)?;
                if size == 0 {
                    *framing = Framing::Over(self.fields().await?);
                    return Ok(None);
                }
                let mut chunk = vec![0; size + 2];
                self.0.read_exact(&mut chunk).await?;
                if chunk.split_off(size) != b"\r\n" {
                    return Err(ErrorKind::InvalidData.into());
                }
                return Ok(Some(chunk));
            }
        };
        let mut piece = vec![0; wanted];
        let count = self.0.read(&mut piece).await?;
        piece.truncate(count);
        match framing {
            Framing::Length(_) if count == 0 => Err(ErrorKind::UnexpectedEof.into()),
            Framing::Length(left) => {
                *left -= count;
                Ok(Some(piece))
            }
            _ if count == 0 => Ok(None),
            _ => Ok(Some(piece)),
        }
    }

    /// Waits until the other side is gone; what it sends until then is dropped.
    pub async fn gone(&mut self) {
        let mut nothing = [0; 4096];
        while matches!(self.0.read(&mut nothing).await, Ok(1..)) {}
    }
}

pub fn fields_of(fields: &HeaderMap) -> Fields {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    fields.iter().map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes()))).collect()
}
