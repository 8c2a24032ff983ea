//! Filters from text, in the words of pcap-filter(7): compiled by libpcap itself,
//! which is loaded when the first filter is, so that nobody else needs it.
//!
//! Runs in the client. What goes to the switch is the program, which is checked
//! there.
//!
//! Deliberately absent: everything else that libpcap can do.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

use super::bpf::Insn;

/// Names that the library has had, the newest first.
const NAMES: [&CStr; 3] = [c"libpcap.so.1", c"libpcap.so.0.8", c"libpcap.so"];

const LINK_ETHERNET: c_int = 1;
const NETMASK_UNKNOWN: c_uint = u32::MAX;

/// Why there is no program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The library is not there.
    #[error("filters need libpcap, which is not installed\n  sudo apt-get install libpcap0.8")]
    NoLibrary,
    /// It lacks a function.
    #[error("the installed libpcap has no {0}\n  install libpcap 1.0 or newer")]
    TooOld(&'static str),
    /// It does not understand the text.
    #[error("filter `{text}`: {reason}\n  the words are those of man pcap-filter")]
    Syntax {
        /// As it was typed.
        text: String,
        /// What libpcap says.
        reason: String,
    },
}

/// `struct bpf_program`.
#[repr(C)]
struct BpfProgram {
    len: c_uint,
    insns: *mut BpfInsn,
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct BpfInsn {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

type OpenDead = unsafe extern "C" fn(c_int, c_int) -> *mut c_void;
type Compile = unsafe extern "C" fn(*mut c_void, *mut BpfProgram, *const c_char, c_int, c_uint) -> c_int;
type GetErr = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type FreeCode = unsafe extern "C" fn(*mut BpfProgram);
type Close = unsafe extern "C" fn(*mut c_void);

/// The functions of libpcap that compile.
struct Library {
    open_dead: OpenDead,
    compile: Compile,
    get_err: GetErr,
    free_code: FreeCode,
    close: Close,
}

impl Library {
    fn load() -> Result<Library, CompileError> {
        let handle = NAMES
            .iter()
            // SAFETY: the name is a C string, and libpcap's constructors do
            // nothing. The library stays loaded for good.
            .map(|name| unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) })
            .find(|handle| !handle.is_null())
            .ok_or(CompileError::NoLibrary)?;
        let symbol = |name: &'static CStr| {
            // SAFETY: the handle is that of a loaded library.
            let found = unsafe { libc::dlsym(handle, name.as_ptr()) };
            if found.is_null() {
                Err(CompileError::TooOld(name.to_str().unwrap_or("function")))
            } else {
                Ok(found)
            }
        };
        // SAFETY: the types are those that pcap/pcap.h declares for these names,
        // unchanged since libpcap 1.0.
        unsafe {
            Ok(Library {
                open_dead: std::mem::transmute::<*mut c_void, OpenDead>(symbol(c"pcap_open_dead")?),
                compile: std::mem::transmute::<*mut c_void, Compile>(symbol(c"pcap_compile")?),
                get_err: std::mem::transmute::<*mut c_void, GetErr>(symbol(c"pcap_geterr")?),
                free_code: std::mem::transmute::<*mut c_void, FreeCode>(symbol(c"pcap_freecode")?),
                close: std::mem::transmute::<*mut c_void, Close>(symbol(c"pcap_close")?),
            })
        }
    }
}

/// The program of a filter for Ethernet frames.
///
/// # Errors
/// libpcap is missing, or does not understand `text`.
pub fn compile(text: &str) -> Result<Vec<Insn>, CompileError> {
    let syntax = |reason: &str| CompileError::Syntax { text: text.to_owned(), reason: reason.to_owned() };
    let words = CString::new(text).map_err(|_| syntax("it has a NUL in it"))?;
    let library = Library::load()?;
    let snaplen = c_int::try_from(super::session::SNAPLEN_MAX).unwrap_or(c_int::MAX);
    // SAFETY: plain numbers go in; NULL comes back if there is no memory.
    let pcap = unsafe { (library.open_dead)(LINK_ETHERNET, snaplen) };
    if pcap.is_null() {
        return Err(syntax("out of memory"));
    }
    let mut program = BpfProgram { len: 0, insns: std::ptr::null_mut() };
    // SAFETY: `pcap` is open, `program` and `words` outlive the call.
    let failed =
        unsafe { (library.compile)(pcap, &raw mut program, words.as_ptr(), 1, NETMASK_UNKNOWN) } != 0;
    let outcome = if failed {
        // SAFETY: the message is a C string that lives until `pcap` is closed.
        let reason = unsafe { CStr::from_ptr((library.get_err)(pcap)) };
        Err(syntax(&reason.to_string_lossy()))
    } else {
        // SAFETY: a compiled program has `len` instructions at `insns`, until it
        // is freed.
        let insns = unsafe { std::slice::from_raw_parts(program.insns, program.len as usize) };
        let insn = |insn: &BpfInsn| Insn { code: insn.code, jt: insn.jt, jf: insn.jf, k: insn.k };
        let insns = insns.iter().map(insn).collect();
        // SAFETY: it was compiled, and is used no more.
        unsafe { (library.free_code)(&raw mut program) };
        Ok(insns)
    };
    // SAFETY: nothing of it is used any more.
    unsafe { (library.close)(pcap) };
    outcome
}

#[cfg(test)]
mod tests {
    use super::super::bpf::Program;
    use super::*;

    /// An ARP request, and a TCP segment to port 80 in VLAN 7.
    fn frames() -> (Vec<u8>, Vec<u8>) {
        let mut arp = vec![0xff; 42];
        arp[12..14].copy_from_slice(&[8, 6]);
        let mut tcp = vec![0; 64];
        tcp[12..18].copy_from_slice(&[0x81, 0, 0, 7, 8, 0]);
        tcp[18] = 0x45;
        tcp[27] = 6;
        tcp[40..42].copy_from_slice(&80u16.to_be_bytes());
        (arp, tcp)
    }

    #[test]
    fn the_words_of_pcap_filter_mean_what_they_say() {
        let (arp, tcp) = frames();
        for (text, takes_arp, takes_tcp) in [
            ("", true, true),
            ("arp", true, false),
            ("not arp", false, true),
            ("vlan 7 and tcp port 80", false, true),
            ("vlan 8", false, false),
            ("ether broadcast", true, false),
            ("ether[12:2] = 0x8100 or arp", true, true),
            ("greater 60", false, true),
        ] {
            let program = match compile(text) {
                // Without the library there is nothing to test.
                Err(CompileError::NoLibrary) => return crate::skip("capture::libpcap", "libpcap0.8"),
                compiled => Program::new(&compiled.unwrap()).unwrap(),
            };
            let takes = |frame: &[u8]| program.accepts(frame, u32::try_from(frame.len()).unwrap());
            assert_eq!((takes(&arp), takes(&tcp)), (takes_arp, takes_tcp), "{text}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_in_libpcaps_words() {
        let error = compile("prot 80").unwrap_err();
        if error != CompileError::NoLibrary {
            assert!(error.to_string().starts_with("filter `prot 80`: "), "{error}");
        }
        assert!(compile("a\0b").is_err());
    }
}
