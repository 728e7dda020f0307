//! Kept keys as text.

use pgrx::pg_sys;

/// A kept key as its type writes it.
pub fn of(type_oid: u32, bytes: &[u8]) -> String {
    // SAFETY: the bytes are those of a value of the type, as `keys::key_of` has taken them; what is allocated goes
    // with the current memory context.
    unsafe {
        let type_oid = pg_sys::Oid::from(type_oid);
        let (mut length, mut by_value) = (0, false);
        pg_sys::get_typlenbyval(type_oid, &mut length, &mut by_value);
        let datum = if by_value {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(bytes) {
                *to = *from;
            }
            pg_sys::Datum::from(u64::from_le_bytes(word) as usize)
        } else if length > 0 {
            let copy = pg_sys::palloc0(length as usize).cast::<u8>();
            copy.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len().min(length as usize));
            pg_sys::Datum::from(copy)
        } else {
            varlena(whole_characters(type_oid, bytes))
        };
        let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
        pg_sys::getTypeOutputInfo(type_oid, &mut output, &mut is_varlena);
        let text = pg_sys::OidOutputFunctionCall(output, datum);
        std::ffi::CStr::from_ptr(text)
            .to_string_lossy()
            .into_owned()
    }
}

/// The bytes up to the last whole character: of a long text the beginning was kept.
unsafe fn whole_characters(type_oid: pg_sys::Oid, bytes: &[u8]) -> &[u8] {
    // SAFETY: reads so many bytes.
    unsafe {
        let base = pg_sys::getBaseType(type_oid);
        if ![pg_sys::TEXTOID, pg_sys::VARCHAROID, pg_sys::BPCHAROID].contains(&base) {
            return bytes;
        }
        let length = bytes.len() as i32;
        let whole = pg_sys::pg_mbcliplen(bytes.as_ptr().cast(), length, length);
        bytes.get(..whole as usize).unwrap_or(bytes)
    }
}

unsafe fn varlena(bytes: &[u8]) -> pg_sys::Datum {
    // SAFETY: the copy has room for a header of 4 bytes and so many more.
    unsafe {
        let size = bytes.len() + 4;
        let copy = pg_sys::palloc0(size).cast::<pg_sys::varlena>();
        pgrx::varlena::set_varsize_4b(copy, size as i32);
        copy.cast::<u8>()
            .add(4)
            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        pg_sys::Datum::from(copy)
    }
}
