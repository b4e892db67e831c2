//! Functions of the output that arrays and optional values need.

/// Functions that arrays and optional values need, each emitted if something calls it.
pub(super) const HELPERS: &[(&str, &str)] = &[
    (
        "take",
        "    /// Adds a size to the sum and passes the value on.
    pub(super) fn take<T>(sum: &mut usize, (value, size): (T, usize)) -> T {
        *sum += size;
        value
    }
",
    ),
    (
        "pack_items",
        "    /// `T x<max>`: the count, then each item.
    pub(super) fn pack_items<T>(
        items: &[T],
        max: usize,
        w: &mut Writer,
        pack: impl Fn(&T, &mut Writer) -> Result<usize>,
    ) -> Result<usize> {
        let mut n = w.count(items.len(), max)?;
        for item in items {
            n += pack(item, w)?;
        }
        Ok(n)
    }
",
    ),
    (
        "unpack_items",
        "    /// `T x<max>`, where an item takes at least `least` bytes.
    pub(super) fn unpack_items<T>(
        r: &mut Reader,
        max: usize,
        least: usize,
        unpack: impl Fn(&mut Reader) -> Result<(T, usize)>,
    ) -> Result<(Vec<T>, usize)> {
        let (count, mut n) = r.count(max, least)?;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            let (item, size) = unpack(r)?;
            items.push(item);
            n += size;
        }
        Ok((items, n))
    }
",
    ),
    (
        "pack_array",
        "    /// `T x[N]`: each item.
    pub(super) fn pack_array<T, const N: usize>(
        items: &[T; N],
        w: &mut Writer,
        pack: impl Fn(&T, &mut Writer) -> Result<usize>,
    ) -> Result<usize> {
        let mut n = 0;
        for item in items {
            n += pack(item, w)?;
        }
        Ok(n)
    }
",
    ),
    (
        "unpack_array",
        "    /// `T x[N]`.
    pub(super) fn unpack_array<T, const N: usize>(
        r: &mut Reader,
        unpack: impl Fn(&mut Reader) -> Result<(T, usize)>,
    ) -> Result<([T; N], usize)> {
        let mut items = Vec::with_capacity(N);
        let mut n = 0;
        for _ in 0..N {
            let (item, size) = unpack(r)?;
            items.push(item);
            n += size;
        }
        let items = items.try_into().map_err(|_| xdr_codec::Error::invalidlen(N))?;
        Ok((items, n))
    }
",
    ),
    (
        "pack_option",
        "    /// `T *x`: whether there is one, then it.
    pub(super) fn pack_option<T>(
        value: &Option<T>,
        w: &mut Writer,
        pack: impl Fn(&T, &mut Writer) -> Result<usize>,
    ) -> Result<usize> {
        match value {
            Some(value) => Ok(true.pack(w)? + pack(value, w)?),
            None => false.pack(w),
        }
    }
",
    ),
    (
        "unpack_option",
        "    /// `T *x`.
    pub(super) fn unpack_option<T>(
        r: &mut Reader,
        unpack: impl Fn(&mut Reader) -> Result<(T, usize)>,
    ) -> Result<(Option<T>, usize)> {
        match r.present()? {
            (true, n) => unpack(r).map(|(value, size)| (Some(value), n + size)),
            (false, n) => Ok((None, n)),
        }
    }
",
    ),
];
