//! Fields of a head as offsets: a table that owns no bytes, and the names that Ringwall itself knows.
//!
//! For: all codecs (HTTP/1 parses over the receive buffer, HTTP/2 over an arena), the forwarding law, policies and
//! the log, which all look at the same table. Not for: the bytes themselves (whoever owns the head passes them in),
//! the meaning of values.
//!
//! Cost: a [`Field`] is 10 bytes, a [`FieldTable`] one allocation of 1,280 bytes made once and used again for every
//! message. Looking a name up among the known ones is two loads, one multiplication and one compare.

/// Most fields a table can hold; the configured limit can only be lower.
pub const FIELDS_MAX: usize = 128;

/// Longest field name, in bytes. Longer names are refused; the longest registered one has 47.
pub const FIELD_NAME_BYTES_MAX: usize = 255;

/// A run of bytes of a head: where it starts and how long it is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u16,
    /// Length in bytes.
    pub len: u16,
}

impl Span {
    /// The span `start..end`. Heads are at most 65,535 bytes, so both fit; larger values saturate.
    #[inline]
    pub fn new(start: usize, end: usize) -> Span {
        debug_assert!(start <= end && end <= usize::from(u16::MAX));
        Span { start: start as u16, len: end.wrapping_sub(start) as u16 }
    }

    /// The bytes of this span; empty if the span does not lie within `bytes`.
    #[inline]
    pub fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(usize::from(self.start)..self.end()).unwrap_or_default()
    }

    /// Offset one past the last byte.
    #[inline]
    pub fn end(&self) -> usize {
        usize::from(self.start) + usize::from(self.len)
    }

    /// Whether the span holds no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// What the codecs do with a known field, whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class(u8);

impl Class {
    /// Nothing special: goes end to end.
    const PLAIN: Class = Class(0);
    /// Says where the message ends or who gets it; written by us, never copied.
    const FRAMING: Class = Class(1);
    /// Belongs to one connection (RFC 9110 §7.6.1); never copied.
    const HOP: Class = Class(2);
    /// A claim about the hops before us; believed only from trusted proxies, so never copied but rewritten.
    const FORWARDING: Class = Class(4);
    /// Tells an origin to see another method or path than the one that was authorised; never copied to an upstream.
    const OVERRIDE: Class = Class(8);
    /// May stand once in a request; a second one is refused.
    const SINGLE: Class = Class(16);
    /// Goes end to end, but the codec has to look at it.
    const NOTABLE: Class = Class(32);
    /// Not a known field.
    const OTHER: Class = Class(64);

    #[inline(always)]
    const fn has(self, other: Class) -> bool {
        self.0 & other.0 != 0
    }
}

macro_rules! known {
    ($($variant:ident = $name:literal $class:ident,)*) => {
        /// A field name that Ringwall knows. `Other` is every other name; ask for those by bytes.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each variant is the field name it spells")]
        pub enum Known { #[default] Other, $($variant,)* }

        impl Known {
            /// How many there are, `Other` included.
            pub const COUNT: usize = NAMES.len();

            /// Every known name except `Other`.
            pub const ALL: [Known; Known::COUNT - 1] = [$(Known::$variant,)*];
        }

        const NAMES: &[&str] = &["", $($name,)*];
        const CLASSES: [Class; NAMES.len()] = [Class::OTHER, $(Class::$class,)*];
        const BY_ID: [Known; NAMES.len()] = [Known::Other, $(Known::$variant,)*];
    };
}

known! {
    Host = "host" PLAIN,
    Connection = "connection" HOP,
    ContentLength = "content-length" FRAMING,
    TransferEncoding = "transfer-encoding" FRAMING,
    KeepAlive = "keep-alive" HOP,
    Te = "te" HOP,
    Trailer = "trailer" HOP,
    Upgrade = "upgrade" HOP,
    Expect = "expect" HOP,
    ProxyConnection = "proxy-connection" HOP,
    ProxyAuthorization = "proxy-authorization" HOP,
    ProxyAuthenticate = "proxy-authenticate" HOP,
    ProxyAuthenticationInfo = "proxy-authentication-info" HOP,
    ProxyStatus = "proxy-status" PLAIN,
    Http2Settings = "http2-settings" HOP,
    Forwarded = "forwarded" FORWARDING,
    XForwardedFor = "x-forwarded-for" FORWARDING,
    XForwardedHost = "x-forwarded-host" FORWARDING,
    XForwardedProto = "x-forwarded-proto" FORWARDING,
    XForwardedPort = "x-forwarded-port" FORWARDING,
    XForwardedPrefix = "x-forwarded-prefix" FORWARDING,
    XForwardedServer = "x-forwarded-server" FORWARDING,
    XForwardedScheme = "x-forwarded-scheme" FORWARDING,
    XForwardedSsl = "x-forwarded-ssl" FORWARDING,
    XRealIp = "x-real-ip" FORWARDING,
    Via = "via" PLAIN,
    XOriginalUrl = "x-original-url" OVERRIDE,
    XRewriteUrl = "x-rewrite-url" OVERRIDE,
    XHttpMethodOverride = "x-http-method-override" OVERRIDE,
    XHttpMethod = "x-http-method" OVERRIDE,
    XMethodOverride = "x-method-override" OVERRIDE,
    XRequestId = "x-request-id" PLAIN,
    Traceparent = "traceparent" PLAIN,
    Tracestate = "tracestate" PLAIN,
    Authorization = "authorization" SINGLE,
    Cookie = "cookie" PLAIN,
    SetCookie = "set-cookie" PLAIN,
    ContentType = "content-type" SINGLE,
    ContentEncoding = "content-encoding" PLAIN,
    ContentLanguage = "content-language" PLAIN,
    ContentLocation = "content-location" PLAIN,
    ContentRange = "content-range" SINGLE,
    ContentDisposition = "content-disposition" PLAIN,
    Accept = "accept" PLAIN,
    AcceptEncoding = "accept-encoding" PLAIN,
    AcceptLanguage = "accept-language" PLAIN,
    AcceptCharset = "accept-charset" PLAIN,
    AcceptRanges = "accept-ranges" PLAIN,
    UserAgent = "user-agent" PLAIN,
    Referer = "referer" PLAIN,
    Origin = "origin" SINGLE,
    Range = "range" SINGLE,
    IfMatch = "if-match" PLAIN,
    IfNoneMatch = "if-none-match" PLAIN,
    IfModifiedSince = "if-modified-since" SINGLE,
    IfUnmodifiedSince = "if-unmodified-since" SINGLE,
    IfRange = "if-range" SINGLE,
    CacheControl = "cache-control" PLAIN,
    Pragma = "pragma" PLAIN,
    Age = "age" PLAIN,
    Expires = "expires" PLAIN,
    Date = "date" PLAIN,
    Etag = "etag" PLAIN,
    LastModified = "last-modified" PLAIN,
    Vary = "vary" PLAIN,
    Location = "location" PLAIN,
    RetryAfter = "retry-after" PLAIN,
    Server = "server" PLAIN,
    XPoweredBy = "x-powered-by" PLAIN,
    WwwAuthenticate = "www-authenticate" PLAIN,
    StrictTransportSecurity = "strict-transport-security" PLAIN,
    XContentTypeOptions = "x-content-type-options" PLAIN,
    XFrameOptions = "x-frame-options" PLAIN,
    ContentSecurityPolicy = "content-security-policy" PLAIN,
    ReferrerPolicy = "referrer-policy" PLAIN,
    PermissionsPolicy = "permissions-policy" PLAIN,
    AccessControlAllowOrigin = "access-control-allow-origin" PLAIN,
    AccessControlAllowMethods = "access-control-allow-methods" PLAIN,
    AccessControlAllowHeaders = "access-control-allow-headers" PLAIN,
    AccessControlAllowCredentials = "access-control-allow-credentials" PLAIN,
    AccessControlExposeHeaders = "access-control-expose-headers" PLAIN,
    AccessControlMaxAge = "access-control-max-age" PLAIN,
    AccessControlRequestMethod = "access-control-request-method" PLAIN,
    AccessControlRequestHeaders = "access-control-request-headers" PLAIN,
    MaxForwards = "max-forwards" SINGLE,
    Warning = "warning" PLAIN,
    Allow = "allow" PLAIN,
    AltSvc = "alt-svc" PLAIN,
    SecWebsocketKey = "sec-websocket-key" SINGLE,
    SecWebsocketVersion = "sec-websocket-version" PLAIN,
    SecWebsocketProtocol = "sec-websocket-protocol" PLAIN,
    SecWebsocketExtensions = "sec-websocket-extensions" PLAIN,
    SecWebsocketAccept = "sec-websocket-accept" PLAIN,
    SecFetchSite = "sec-fetch-site" PLAIN,
    SecFetchMode = "sec-fetch-mode" PLAIN,
    SecFetchDest = "sec-fetch-dest" PLAIN,
    SecFetchUser = "sec-fetch-user" PLAIN,
    UpgradeInsecureRequests = "upgrade-insecure-requests" PLAIN,
    IdempotencyKey = "idempotency-key" SINGLE,
    Link = "link" PLAIN,
    XApiKey = "x-api-key" PLAIN,
    Priority = "priority" PLAIN,
    EarlyData = "early-data" PLAIN,
    ContentDigest = "content-digest" PLAIN,
    Digest = "digest" PLAIN,
    ClearSiteData = "clear-site-data" PLAIN,
    ServerTiming = "server-timing" PLAIN,
}

const SLOTS_LOG2: u32 = 9;
/// Makes the hash of every known name its own slot; found by search, and the build fails if it no longer does.
const MULTIPLIER: u64 = 0xd2b2_926f_470e_487d;
const SLOTS: [Known; 1 << SLOTS_LOG2] = slots();
const KEYS: [Key; NAMES.len()] = keys();
const FOLD: u64 = 0x2020_2020_2020_2020;

/// A name in lower case as far as it takes to tell known names apart: its first and last eight bytes and its length.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    first: u64,
    last: u64,
    len: usize,
}

impl Key {
    /// The key of a field name. Setting bit 5 folds case: of the token bytes it can only make two different ones equal
    /// where neither is a letter, a digit or a hyphen, and known names hold nothing else.
    #[inline(always)]
    const fn of(name: &[u8]) -> Key {
        let len = name.len();
        if let (Some(first), Some(last)) = (name.first_chunk::<8>(), name.last_chunk::<8>()) {
            let first = u64::from_le_bytes(*first) | FOLD;
            let last = u64::from_le_bytes(*last) | FOLD;
            return Key { first, last: if len == 8 { 0 } else { last }, len };
        }
        const HALF: u64 = FOLD >> 32;
        let first = if let (Some(low), Some(high)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) {
            // The overlap holds the same bytes twice, so that OR leaves them as they are.
            let high = u32::from_le_bytes(*high) as u64 | HALF;
            u32::from_le_bytes(*low) as u64 | HALF | high << ((len - 4) * 8)
        } else if len > 0 {
            let (middle, last) = (name[len / 2] as u64 | 0x20, name[len - 1] as u64 | 0x20);
            name[0] as u64 | 0x20 | middle << (len / 2 * 8) | last << ((len - 1) * 8)
        } else {
            0
        };
        Key { first, last: 0, len }
    }

    #[inline(always)]
    const fn slot(self) -> usize {
        let mixed = (self.first ^ self.last.rotate_left(5)).wrapping_add(self.len as u64);
        (mixed.wrapping_mul(MULTIPLIER) >> (64 - SLOTS_LOG2)) as usize
    }
}

const fn keys() -> [Key; NAMES.len()] {
    let mut keys = [Key { first: 0, last: 0, len: usize::MAX }; NAMES.len()];
    let mut i = 1;
    while i < NAMES.len() {
        keys[i] = Key::of(NAMES[i].as_bytes());
        i += 1;
    }
    keys
}

const fn slots() -> [Known; 1 << SLOTS_LOG2] {
    let mut slots = [Known::Other; 1 << SLOTS_LOG2];
    let mut i = 1;
    while i < NAMES.len() {
        let slot = Key::of(NAMES[i].as_bytes()).slot();
        assert!(slots[slot] as usize == 0, "two known names share a slot: search another MULTIPLIER");
        slots[slot] = BY_ID[i];
        i += 1;
    }
    slots
}

impl Known {
    /// The known field of this name, in any case; `Other` if it is none. O(1), no allocation. `name` must be a token:
    /// a control may pass for the letter, digit or hyphen that it is one bit away from.
    #[inline(always)]
    pub fn of(name: &[u8]) -> Known {
        let key = Key::of(name);
        let id = SLOTS[key.slot()];
        let known = &KEYS[id as usize];
        // The key of `Other` has a length that no name has.
        if known.first != key.first || known.last != key.last || known.len != key.len {
            return Known::Other;
        }
        // The key is the whole name up to 16 bytes.
        if key.len > 16 && !id.middle_is(name) {
            return Known::Other;
        }
        id
    }

    #[inline(never)]
    fn middle_is(self, name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(self.name().as_bytes())
    }

    /// The field's name in lower case; empty for `Other`.
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// Says where the message ends (`Content-Length`, `Transfer-Encoding`): written by us, never copied.
    pub fn is_framing(self) -> bool {
        self.class().has(Class::FRAMING)
    }

    /// Belongs to one connection (RFC 9110 §7.6.1): never copied.
    pub fn is_hop_by_hop(self) -> bool {
        self.class().has(Class::HOP)
    }

    /// Claims something about earlier hops (`Forwarded`, `X-Forwarded-*`, `X-Real-IP`).
    pub fn is_forwarding(self) -> bool {
        self.class().has(Class::FORWARDING)
    }

    /// Asks an origin to see another method or path than the one sent (`X-HTTP-Method-Override`, `X-Original-URL`).
    pub fn is_override(self) -> bool {
        self.class().has(Class::OVERRIDE)
    }

    /// May stand only once in a request, besides those whose own rules say so.
    pub fn is_single(self) -> bool {
        self.class().has(Class::SINGLE)
    }

    #[inline(always)]
    fn class(self) -> Class {
        CLASSES[self as usize]
    }

    #[inline(always)]
    const fn bit(self) -> u128 {
        1 << (self as u32)
    }
}

/// One field: offsets of its name and value into the head's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// Offset of the name, which is also the start of the field's line.
    pub name_start: u16,
    /// Offset of the value, white space around it excluded.
    pub value_start: u16,
    /// Length of the value in bytes; may be 0.
    pub value_len: u16,
    /// Length of the name in bytes, 1–255.
    pub name_len: u8,
    /// Which known field it is.
    pub known: Known,
}

const _: () = assert!(size_of::<Field>() <= 12 && Known::COUNT <= 128);

impl Field {
    /// Where the name lies.
    #[inline]
    pub fn name(&self) -> Span {
        Span { start: self.name_start, len: u16::from(self.name_len) }
    }

    /// Where the value lies.
    #[inline]
    pub fn value(&self) -> Span {
        Span { start: self.value_start, len: self.value_len }
    }
}

/// A set of positions in a [`FieldTable`], for instance those that are not forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(pub u128);

impl FieldSet {
    /// The set without a member.
    pub const EMPTY: FieldSet = FieldSet(0);

    /// Adds position `index` (0–127; larger ones are ignored).
    #[inline]
    pub fn insert(&mut self, index: usize) {
        debug_assert!(index < FIELDS_MAX);
        self.0 |= 1u128.checked_shl(index as u32).unwrap_or(0);
    }

    /// Takes position `index` out.
    #[inline]
    pub fn remove(&mut self, index: usize) {
        self.0 &= !1u128.checked_shl(index as u32).unwrap_or(0);
    }

    /// Whether position `index` is a member.
    #[inline]
    pub fn contains(&self, index: usize) -> bool {
        self.0 & 1u128.checked_shl(index as u32).unwrap_or(0) != 0
    }

    /// Whether there is no member.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// How many members there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.count_ones() as usize
    }

    /// The members of either set.
    #[inline]
    #[must_use]
    pub fn union(self, other: FieldSet) -> FieldSet {
        FieldSet(self.0 | other.0)
    }

    /// The members in ascending order.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let index = left.trailing_zeros() as usize;
            left &= left.wrapping_sub(1);
            (index < FIELDS_MAX).then_some(index)
        })
    }
}

/// A field as [`FieldTable::iter`] yields it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRef<'a> {
    /// Its position in the table, for a [`FieldSet`].
    pub index: usize,
    /// Which known field it is.
    pub known: Known,
    /// The name as it was sent.
    pub name: &'a [u8],
    /// The value, white space around it excluded.
    pub value: &'a [u8],
}

/// The fields of one message, in order, as offsets into bytes that somebody else owns.
///
/// One heap allocation when it is made, none afterwards; [`FieldTable::clear`] makes it ready for the next message.
#[derive(Clone, Debug)]
pub struct FieldTable {
    fields: Box<[Field; FIELDS_MAX]>,
    len: usize,
    /// For each known field the position of the first of its name plus one; 0 = absent.
    first: [u8; FIELDS_MAX],
    /// Bit `k` is set when known field `k` is present more than once.
    repeated: u128,
    /// The classes of all known fields present.
    classes: Class,
    /// Positions of framing and hop-by-hop fields.
    hop: FieldSet,
    /// Positions of claims about earlier hops.
    forwarding: FieldSet,
    /// Positions of method and path overrides.
    overriding: FieldSet,
    /// Positions whose name is `Other`.
    others: FieldSet,
    /// Positions of names with a byte that is neither letter, digit nor hyphen.
    odd: FieldSet,
    /// Positions that are not a line of the form `Name: value` CRLF in the head's bytes.
    irregular: FieldSet,
}

impl Default for FieldTable {
    fn default() -> FieldTable {
        FieldTable::new()
    }
}

impl FieldTable {
    /// An empty table; allocates its 1,280 bytes.
    pub fn new() -> FieldTable {
        FieldTable {
            fields: Box::new([Field::default(); FIELDS_MAX]),
            len: 0,
            first: [0; FIELDS_MAX],
            repeated: 0,
            classes: Class::PLAIN,
            hop: FieldSet::EMPTY,
            forwarding: FieldSet::EMPTY,
            overriding: FieldSet::EMPTY,
            others: FieldSet::EMPTY,
            odd: FieldSet::EMPTY,
            irregular: FieldSet::EMPTY,
        }
    }

    /// Forgets all fields; keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.len = 0;
        self.first = [0; FIELDS_MAX];
        self.repeated = 0;
        self.classes = Class::PLAIN;
        self.hop = FieldSet::EMPTY;
        self.forwarding = FieldSet::EMPTY;
        self.overriding = FieldSet::EMPTY;
        self.others = FieldSet::EMPTY;
        self.odd = FieldSet::EMPTY;
        self.irregular = FieldSet::EMPTY;
    }

    /// Adds a field whose name and value lie in the head at these offsets; `false` if the table is full.
    ///
    /// `line` says that the head holds it as one line `Name: value` CRLF directly behind the previous field's line (so
    /// that runs can be copied whole); `odd` that the name has a byte besides letters, digits and hyphens.
    #[inline(always)]
    pub fn push(&mut self, field: Field, line: bool, odd: bool) -> bool {
        let index = self.len;
        let Some(slot) = self.fields.get_mut(index) else { return false };
        *slot = field;
        self.len = index + 1;
        let class = field.known.class();
        if u8::from(!line) | u8::from(odd) | class.0 != 0 {
            self.note(index, field.known, line, odd);
        }
        let first = &mut self.first[field.known as usize & (FIELDS_MAX - 1)];
        if *first == 0 {
            // `index` is below 128: the slot was there.
            *first = index as u8 + 1;
        } else {
            self.repeated |= field.known.bit();
        }
        true
    }

    /// Notes what is not so of most fields.
    #[inline]
    fn note(&mut self, index: usize, known: Known, line: bool, odd: bool) {
        let bit = 1u128 << (index as u32 & 127);
        if !line {
            self.irregular.0 |= bit;
        }
        if odd {
            self.odd.0 |= bit;
        }
        if known == Known::Other {
            self.others.0 |= bit;
            return;
        }
        let class = known.class();
        self.classes.0 |= class.0;
        if class.has(Class(Class::FRAMING.0 | Class::HOP.0)) {
            self.hop.0 |= bit;
        } else if class.has(Class::FORWARDING) {
            self.forwarding.0 |= bit;
        } else if class.has(Class::OVERRIDE) {
            self.overriding.0 |= bit;
        }
    }

    /// How many fields there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The fields as offsets, in the order they were sent.
    #[inline]
    pub fn as_slice(&self) -> &[Field] {
        &self.fields[..self.len.min(FIELDS_MAX)]
    }

    /// The fields with their bytes, in the order they were sent; `bytes` is the head the table was made from.
    #[inline]
    pub fn iter<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = FieldRef<'a>> {
        self.as_slice().iter().enumerate().map(move |(index, field)| FieldRef {
            index,
            known: field.known,
            name: field.name().of(bytes),
            value: field.value().of(bytes),
        })
    }

    /// Whether a known field is present; one load. Always false for `Other`.
    #[inline(always)]
    pub fn has(&self, known: Known) -> bool {
        self.position(known).is_some()
    }

    /// Whether a known field is present more than once; one bit test.
    #[inline(always)]
    pub fn is_repeated(&self, known: Known) -> bool {
        known != Known::Other && self.repeated & known.bit() != 0
    }

    /// The known fields that are present more than once and may not be.
    pub(crate) fn repeated_single(&self) -> bool {
        self.repeated & SINGLES != 0
    }

    /// Whether any field is present that says where the message ends or what becomes of the connection.
    #[inline(always)]
    pub(crate) fn has_notable(&self) -> bool {
        self.classes.has(Class(Class::FRAMING.0 | Class::HOP.0 | Class::NOTABLE.0))
    }

    /// Whether any of these known fields is present; one load for each.
    #[inline]
    pub fn has_any(&self, known: &KnownSet) -> bool {
        FieldSet(known.0).iter().any(|id| id != 0 && self.first[id] != 0)
    }

    /// Position of the first field of this known name; one load. `None` for `Other`.
    #[inline(always)]
    pub fn position(&self, known: Known) -> Option<usize> {
        if known == Known::Other {
            return None;
        }
        usize::from(self.first[known as usize & (FIELDS_MAX - 1)]).checked_sub(1)
    }

    /// The first field of this known name; two loads.
    #[inline]
    pub fn find(&self, known: Known) -> Option<&Field> {
        self.position(known).and_then(|index| self.as_slice().get(index))
    }

    /// The value of the first field of this known name.
    #[inline]
    pub fn value<'a>(&self, bytes: &'a [u8], known: Known) -> Option<&'a [u8]> {
        self.find(known).map(|field| field.value().of(bytes))
    }

    /// Every field of this known name, with its position.
    #[inline]
    pub fn find_all(&self, known: Known) -> impl DoubleEndedIterator<Item = (usize, &Field)> {
        let fields = if self.has(known) { self.as_slice() } else { &[] };
        fields.iter().enumerate().filter(move |(_, field)| field.known == known)
    }

    /// The first field of this name, compared without case. A known name costs no string compare.
    #[inline]
    pub fn find_name<'a>(&self, bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
        self.find_names(bytes, name).next().map(|(_, value)| value)
    }

    /// Every field of this name, compared without case: its position and its value.
    #[inline]
    pub fn find_names<'a>(&self, bytes: &'a [u8], name: &[u8]) -> impl Iterator<Item = (usize, &'a [u8])> {
        let known = Known::of(name);
        let fields = if known == Known::Other || self.has(known) { self.as_slice() } else { &[] };
        fields.iter().enumerate().filter_map(move |(index, field)| {
            let same = field.known == known
                && (known != Known::Other
                    || usize::from(field.name_len) == name.len()
                        && field.name().of(bytes).eq_ignore_ascii_case(name));
            same.then(|| (index, field.value().of(bytes)))
        })
    }

    /// Positions of framing and hop-by-hop fields, which no codec ever copies.
    #[inline]
    pub fn hop_by_hop(&self) -> FieldSet {
        self.hop
    }

    /// Positions of `Forwarded`, `X-Forwarded-*` and `X-Real-IP`.
    #[inline]
    pub fn forwarding(&self) -> FieldSet {
        self.forwarding
    }

    /// Positions of method and path overrides.
    #[inline]
    pub fn overriding(&self) -> FieldSet {
        self.overriding
    }

    /// Positions of fields whose name is not a [`Known`] one.
    #[inline]
    pub fn others(&self) -> FieldSet {
        self.others
    }

    /// Positions of names with a byte besides letters, digits and hyphens, for instance an underscore.
    #[inline]
    pub fn odd(&self) -> FieldSet {
        self.odd
    }

    /// Positions that must be written anew instead of copied as a line.
    #[inline]
    pub fn irregular(&self) -> FieldSet {
        self.irregular
    }
}

const SINGLES: u128 = {
    let mut set = 0;
    let mut i = 0;
    while i < CLASSES.len() {
        if CLASSES[i].has(Class::SINGLE) {
            set |= 1 << i;
        }
        i += 1;
    }
    set
};

/// A set of known names, to ask for several at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownSet(u128);

impl KnownSet {
    /// The set without a member.
    pub const EMPTY: KnownSet = KnownSet(0);

    /// The set with `known` added; `Other` cannot be in a set.
    #[must_use]
    pub const fn with(self, known: Known) -> KnownSet {
        match known {
            Known::Other => self,
            _ => KnownSet(self.0 | known.bit()),
        }
    }

    /// Whether there is no member.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// The set of these names.
    pub const fn of(names: &[Known]) -> KnownSet {
        let mut set = 0;
        let mut i = 0;
        while i < names.len() {
            set |= names[i].bit();
            i += 1;
        }
        KnownSet(set)
    }

    /// Whether both have a member in common.
    #[inline]
    pub const fn meets(&self, other: &KnownSet) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether `known` is a member.
    #[inline]
    pub const fn contains(&self, known: Known) -> bool {
        self.0 & known.bit() != 0
    }
}

/// Whether `value`, which holds no control, is `word` in any case: two loads and two compares. `word` is in lower case,
/// of letters, digits and hyphens, and at most 16 bytes long.
#[inline(always)]
pub(crate) fn is_word(value: &[u8], word: &'static [u8]) -> bool {
    debug_assert!(word.len() <= 16);
    value.len() == word.len() && Key::of(value) == Key::of(word)
}

/// Whether two field names are the same to a peer that reads every byte besides letters and digits as one and the
/// same, as CGI, WSGI and their like do with hyphens and underscores (`Content_Length` and `Content-Length`).
pub fn are_twins(a: &[u8], b: &[u8]) -> bool {
    let fold = |byte: &u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    a.len() == b.len() && a.iter().map(fold).eq(b.iter().map(fold))
}

/// The known field of which `name` is a twin (see [`are_twins`]); `Other` if of none.
pub fn twin_of(name: &[u8]) -> Known {
    let mut folded = [0; 64];
    let Some(folded) = folded.get_mut(..name.len()) else { return Known::Other };
    for (to, from) in folded.iter_mut().zip(name) {
        *to = if from.is_ascii_alphanumeric() { *from } else { b'-' };
    }
    Known::of(folded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::scan::NAME;

    #[test]
    fn every_known_name_is_found_in_any_case_and_nothing_near_it() {
        for known in Known::ALL {
            let name = known.name();
            assert_eq!(Known::of(name.as_bytes()), known, "{name}");
            assert_eq!(Known::of(name.to_ascii_uppercase().as_bytes()), known, "{name}");
            for at in 0..name.len() {
                let mut other = name.as_bytes().to_vec();
                other[at] = if other[at] == b'x' { b'y' } else { b'x' };
                let expected =
                    Known::ALL.into_iter().find(|k| k.name().as_bytes() == other).unwrap_or_default();
                assert_eq!(Known::of(&other), expected);
                other.remove(at);
                let expected =
                    Known::ALL.into_iter().find(|k| k.name().as_bytes() == other).unwrap_or_default();
                assert_eq!(Known::of(&other), expected);
            }
        }
        for len in 0..300 {
            assert_eq!(Known::of(&vec![b'q'; len]), Known::Other);
        }
        // Folding case by one bit makes no other token byte one of a known name.
        for known in Known::ALL {
            for at in 0..known.name().len() {
                for byte in (0..=255u8).filter(|byte| NAME[usize::from(*byte)] == 2) {
                    let mut other = known.name().as_bytes().to_vec();
                    other[at] = byte;
                    assert_eq!(Known::of(&other), Known::Other);
                }
            }
        }
    }

    #[test]
    fn a_table_is_full_at_its_bound_and_empty_after_clear() {
        let mut table = FieldTable::new();
        for _ in 0..FIELDS_MAX {
            assert!(table.push(Field { known: Known::Connection, ..Field::default() }, true, false));
        }
        assert!(!table.push(Field::default(), true, false));
        assert_eq!((table.len(), table.hop_by_hop().len()), (128, 128));
        assert!(table.is_repeated(Known::Connection) && table.hop_by_hop().contains(127));
        table.clear();
        assert!(table.is_empty() && !table.has(Known::Connection) && table.hop_by_hop().is_empty());
        assert_eq!(table.iter(b"").count(), 0);
    }

    #[test]
    fn sets_hold_what_was_put_in() {
        let mut set = FieldSet::EMPTY;
        for index in [0, 5, 63, 64, 127] {
            set.insert(index);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 5, 63, 64, 127]);
        set.remove(64);
        assert!(!set.contains(64) && set.contains(127) && !set.contains(126));
        assert_eq!(set.len(), 4);
    }

    #[test]
    fn twins_are_seen_through_any_odd_byte() {
        for (name, known) in [
            ("Content_Length", Known::ContentLength),
            ("transfer.encoding", Known::TransferEncoding),
            ("X_Forwarded~For", Known::XForwardedFor),
            ("content-length", Known::ContentLength),
            ("contentlength", Known::Other),
            ("_host", Known::Other),
        ] {
            assert_eq!(twin_of(name.as_bytes()), known, "{name}");
        }
        assert_eq!(twin_of(&[b'_'; 300]), Known::Other);
    }
}
