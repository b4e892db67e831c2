//! libvirt's C library, opened at run time, and a safe function around each of its symbols that is used. The only file of
//! the crate with `unsafe` in it, and nothing but this fence is in it. Imports error, qmp and libvirt, for plain data, and
//! `callbacks`.
#![allow(
    unsafe_code,
    reason = "the functions of a C library cannot be called otherwise"
)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

use std::ffi::{CStr, c_char, c_int, c_longlong, c_uchar, c_uint, c_void};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{NonNull, null, null_mut, without_provenance_mut};
use std::sync::OnceLock;

use bytes::Bytes;
use libloading::Library;
use tracing::debug;
use uuid::Uuid;

use super::callbacks::{self, Callback, RawEvent, find, guarded, remove};
use crate::error::{Error, LibvirtError};
use crate::objects::Domain;
use crate::qmp::EventDomain;

type Result<T> = std::result::Result<T, Error>;

/// The libraries by their sonames, which have been these since libvirt's first release with a stable interface.
const CORE: &str = "libvirt.so.0";
const QEMU: &str = "libvirt-qemu.so.0";

/// A struct of libvirt that is only ever pointed to.
#[repr(C)]
struct Opaque<T>([u8; 0], PhantomData<T>);

enum ConnectTag {}
enum DomainTag {}

/// `virConnectPtr`
type ConnectPtr = *mut Opaque<ConnectTag>;
/// `virDomainPtr`
type DomainPtr = *mut Opaque<DomainTag>;

/// `virError`
#[repr(C)]
struct RawError {
    code: c_int,
    domain: c_int,
    message: *const c_char,
    level: c_int,
    conn: *const c_void,
    dom: *const c_void,
    str1: *const c_char,
    str2: *const c_char,
    str3: *const c_char,
    int1: c_int,
    int2: c_int,
    net: *const c_void,
}

/// `virFreeCallback`
type Free = extern "C" fn(*mut c_void);
/// `virErrorFunc`
type OnError = extern "C" fn(*mut c_void, *mut RawError);
/// `virEventTimeoutCallback`
type OnTimeout = extern "C" fn(c_int, *mut c_void);
/// `virConnectCloseFunc`
type OnClose = extern "C" fn(ConnectPtr, c_int, *mut c_void);
/// `virConnectDomainQemuMonitorEventCallback`
type OnEvent = unsafe extern "C" fn(
    ConnectPtr,
    DomainPtr,
    *const c_char,
    c_longlong,
    c_uint,
    *const c_char,
    *mut c_void,
);
/// `virDomainQemuMonitorCommandWithFiles`, since libvirt 8.2.
type MonitorCommandWithFiles = unsafe extern "C" fn(
    DomainPtr,
    *const c_char,
    c_uint,
    *mut c_int,
    *mut c_uint,
    *mut *mut c_int,
    *mut *mut c_char,
    c_uint,
) -> c_int;

/// Declares the struct of all functions that every supported libvirt has, and how it is filled.
macro_rules! symbols {
    ($($library:ident $field:ident = $name:literal, fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        struct Symbols {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Symbols {
            fn load(libraries: &Libraries) -> Result<Self> {
                Ok(Symbols {
                    // SAFETY: the type is that of the declaration in libvirt's headers.
                    $($field: unsafe { libraries.$library.symbol($name) }?,)*
                })
            }
        }
    };
}

symbols! {
    core initialize = "virInitialize", fn() -> c_int;
    core get_last_error = "virGetLastError", fn() -> *const RawError;
    core set_error_func = "virSetErrorFunc", fn(*mut c_void, OnError);
    core event_register_default = "virEventRegisterDefaultImpl", fn() -> c_int;
    core event_run_default = "virEventRunDefaultImpl", fn() -> c_int;
    core event_add_timeout = "virEventAddTimeout", fn(c_int, OnTimeout, *mut c_void, Free) -> c_int;
    core event_remove_timeout = "virEventRemoveTimeout", fn(c_int) -> c_int;
    core open = "virConnectOpen", fn(*const c_char) -> ConnectPtr;
    core open_readonly = "virConnectOpenReadOnly", fn(*const c_char) -> ConnectPtr;
    core close = "virConnectClose", fn(ConnectPtr) -> c_int;
    core is_alive = "virConnectIsAlive", fn(ConnectPtr) -> c_int;
    core set_keep_alive = "virConnectSetKeepAlive", fn(ConnectPtr, c_int, c_uint) -> c_int;
    core register_close = "virConnectRegisterCloseCallback", fn(ConnectPtr, OnClose, *mut c_void, Free) -> c_int;
    core unregister_close = "virConnectUnregisterCloseCallback", fn(ConnectPtr, OnClose) -> c_int;
    core list_all_domains = "virConnectListAllDomains", fn(ConnectPtr, *mut *mut DomainPtr, c_uint) -> c_int;
    core lookup_by_name = "virDomainLookupByName", fn(ConnectPtr, *const c_char) -> DomainPtr;
    core lookup_by_uuid = "virDomainLookupByUUID", fn(ConnectPtr, *const c_uchar) -> DomainPtr;
    core domain_free = "virDomainFree", fn(DomainPtr) -> c_int;
    core domain_name = "virDomainGetName", fn(DomainPtr) -> *const c_char;
    core domain_uuid = "virDomainGetUUID", fn(DomainPtr, *mut c_uchar) -> c_int;
    core domain_id = "virDomainGetID", fn(DomainPtr) -> c_uint;
    qemu monitor_command = "virDomainQemuMonitorCommand",
        fn(DomainPtr, *const c_char, *mut *mut c_char, c_uint) -> c_int;
    qemu agent_command = "virDomainQemuAgentCommand", fn(DomainPtr, *const c_char, c_int, c_uint) -> *mut c_char;
    qemu register_event = "virConnectDomainQemuMonitorEventRegister",
        fn(ConnectPtr, DomainPtr, *const c_char, OnEvent, *mut c_void, Free, c_uint) -> c_int;
    qemu deregister_event = "virConnectDomainQemuMonitorEventDeregister", fn(ConnectPtr, c_int) -> c_int;
}

// SAFETY: this is the declaration of ISO C.
unsafe extern "C" {
    /// Of the same C library that libvirt has its memory from.
    fn free(pointer: *mut c_void);
}

struct Opened {
    name: String,
    library: Library,
}

struct Libraries {
    core: Opened,
    qemu: Opened,
}

impl Opened {
    fn open(name: &str) -> Result<Self> {
        // SAFETY: what runs on loading are the initialisers of libvirt and of what it is linked with, which any program
        // that is linked with it runs as well.
        match unsafe { Library::new(name) } {
            Ok(library) => Ok(Opened {
                name: name.to_owned(),
                library,
            }),
            Err(error) => Err(Error::Unsupported(format!(
                "libvirt's C library: {name} cannot be opened: {}",
                reason(&error)
            ))),
        }
    }

    /// # Safety
    /// `F` is the type of a pointer to the function of this name.
    unsafe fn symbol<F: Copy>(&self, name: &str) -> Result<F> {
        // SAFETY: the caller's promise. The copy outlives its `Symbol`, but not the library: [`Api`] has both.
        match unsafe { self.library.get::<F>(name) } {
            Ok(symbol) => Ok(*symbol),
            Err(_) => Err(Error::Unsupported(format!(
                "libvirt's C library: {} has no function {name}",
                self.name
            ))),
        }
    }
}

/// What the system said, which libloading has as the source of its own text.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// libvirt's C library.
pub(super) struct Api {
    symbols: Symbols,
    with_files: Option<MonitorCommandWithFiles>,
    /// What the functions are in.
    _libraries: Libraries,
}

impl Api {
    /// The library, opened by the first who asks; where that failed, it stays so.
    pub(super) fn get() -> Result<&'static Api> {
        static API: OnceLock<Result<Api>> = OnceLock::new();
        let api = API.get_or_init(|| {
            let api = Api::load(CORE, QEMU)?;
            // SAFETY: takes nothing, and may be called at any time.
            api.done("virInitialize", unsafe { (api.symbols.initialize)() })?;
            Ok(api)
        });
        api.as_ref().map_err(Clone::clone)
    }

    fn load(core: &str, qemu: &str) -> Result<Api> {
        let libraries = Libraries {
            core: Opened::open(core)?,
            qemu: Opened::open(qemu)?,
        };
        Ok(Api {
            symbols: Symbols::load(&libraries)?,
            // SAFETY: the type is that of the declaration in libvirt's headers.
            with_files: unsafe {
                let name = "virDomainQemuMonitorCommandWithFiles";
                libraries.qemu.symbol(name).ok()
            },
            _libraries: libraries,
        })
    }

    /// Keeps libvirt from printing each error to standard error. Holds for the whole process.
    pub(super) fn silence(&self) {
        // SAFETY: the function may be called at any time from any thread, and uses none of its arguments.
        unsafe { (self.symbols.set_error_func)(null_mut(), on_error) }
    }

    /// Makes libvirt's own event loop the one it uses. It must be run then: see [`Api::run_default_loop`].
    pub(super) fn register_default_loop(&self) -> Result<()> {
        // SAFETY: takes nothing, and where there is a loop already it does nothing.
        let result = unsafe { (self.symbols.event_register_default)() };
        self.done("virEventRegisterDefaultImpl", result).map(drop)
    }

    /// One turn of the loop: waits for something to do, and does it.
    pub(super) fn run_default_loop(&self) -> Result<()> {
        // SAFETY: takes nothing. Its callbacks are those of this file, and libvirt's own.
        let result = unsafe { (self.symbols.event_run_default)() };
        self.done("virEventRunDefaultImpl", result).map(drop)
    }

    /// Has the loop call `then` when it has done what waits for it now, removals included.
    pub(super) fn after_pending(&self, then: impl Fn() + Send + Sync + 'static) -> Result<()> {
        let (number, opaque) = add(Callback::Pending(Box::new(then)));
        // SAFETY: both functions take the number alone for their `opaque`.
        let timer =
            unsafe { (self.symbols.event_add_timeout)(0, on_timeout, opaque, on_timeout_removed) };
        let added = self.done("virEventAddTimeout", timer);
        if added.is_err() {
            remove(number);
        }
        added.map(drop)
    }

    /// `result` where it is no failure.
    fn done(&self, procedure: &'static str, result: c_int) -> Result<c_int> {
        match result {
            0.. => Ok(result),
            _ => Err(self.last_error(procedure)),
        }
    }

    /// Why the last call of this thread failed.
    fn last_error(&self, procedure: &'static str) -> Error {
        // SAFETY: what it returns belongs to this thread, and lives until its next call.
        let error = unsafe { (self.symbols.get_last_error)().as_ref() };
        let mut found = LibvirtError {
            code: LibvirtError::INTERNAL_ERROR,
            domain: 0,
            level: 2,
            message: None,
            str1: None,
            str2: None,
            str3: None,
            int1: 0,
            int2: 0,
            about_domain: None,
            about_network: None,
            procedure,
        };
        if let Some(error) = error {
            (found.code, found.domain, found.level) = (error.code, error.domain, error.level);
            (found.int1, found.int2) = (error.int1, error.int2);
            // SAFETY: each is NULL or a string that lives as long as `error` does. Its pointers to objects are not touched:
            // nobody says how long those live.
            unsafe {
                found.message = text(error.message);
                found.str1 = text(error.str1);
                found.str2 = text(error.str2);
                found.str3 = text(error.str3);
            }
        }
        found.into()
    }

    /// # Safety
    /// `domain` is a domain of libvirt.
    unsafe fn describe(&self, domain: DomainPtr) -> EventDomain {
        let mut uuid = [0; 16];
        // SAFETY: the caller's promise, and `uuid` has VIR_UUID_BUFLEN bytes. The name belongs to the domain. All three only
        // read the object, without a call to the daemon.
        let (name, id) = unsafe {
            (self.symbols.domain_uuid)(domain, uuid.as_mut_ptr());
            let name = text((self.symbols.domain_name)(domain));
            (name, (self.symbols.domain_id)(domain))
        };
        // An inactive domain has the id -1, whatever its type.
        let id = i32::try_from(id).ok();
        EventDomain::new(name.unwrap_or_default(), Uuid::from_bytes(uuid), id)
    }
}

/// A copy of a C string; what is not UTF-8 in it is replaced.
///
/// # Safety
/// `pointer` is NULL or points to a C string.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    Some(text.to_string_lossy().into_owned())
}

/// A copy of a string that libvirt gave away, which is freed. NULL is the empty string.
///
/// # Safety
/// `pointer` is NULL or points to a C string that was allocated with `malloc` and is nobody else's.
unsafe fn take_text(pointer: *mut c_char) -> Bytes {
    if pointer.is_null() {
        return Bytes::new();
    }
    // SAFETY: the caller's promise; it is not used after it was freed.
    unsafe {
        let copy = Bytes::copy_from_slice(CStr::from_ptr(pointer).to_bytes());
        free(pointer.cast());
        copy
    }
}

/// A connection of libvirt. Dropping it gives up the reference that opening gave.
pub(super) struct Conn {
    api: &'static Api,
    pointer: NonNull<Opaque<ConnectTag>>,
}

// SAFETY: libvirt's connections may be used by any number of threads at once.
unsafe impl Send for Conn {}
// SAFETY: as above.
unsafe impl Sync for Conn {}

impl Conn {
    pub(super) fn open(api: &'static Api, uri: &CStr, readonly: bool) -> Result<Self> {
        let (open, name) = if readonly {
            (api.symbols.open_readonly, "virConnectOpenReadOnly")
        } else {
            (api.symbols.open, "virConnectOpen")
        };
        // SAFETY: `uri` is a C string for as long as the call takes.
        let pointer = NonNull::new(unsafe { open(uri.as_ptr()) });
        let pointer = pointer.ok_or_else(|| api.last_error(name))?;
        Ok(Conn { api, pointer })
    }

    /// Whether libvirt has not noticed the end of the connection. Asks nobody.
    pub(super) fn is_alive(&self) -> bool {
        // SAFETY: the connection is open until it is dropped. -1 is an error, which says nothing.
        unsafe { (self.api.symbols.is_alive)(self.pointer.as_ptr()) != 0 }
    }

    /// Has libvirt ask a silent daemon, `count` times, whether it is there.
    pub(super) fn set_keep_alive(&self, interval_seconds: i32, count: u32) -> Result<()> {
        let (conn, set) = (self.pointer.as_ptr(), self.api.symbols.set_keep_alive);
        // SAFETY: the connection is open until it is dropped.
        let result = unsafe { set(conn, interval_seconds, count) };
        // 1 says that the daemon does not know keepalive.
        self.api.done("virConnectSetKeepAlive", result).map(drop)
    }

    /// Has libvirt call `closed` with a `virConnectCloseReason` when the connection is lost. Once only.
    pub(super) fn on_close(
        &self,
        closed: impl Fn(i32) + Send + Sync + 'static,
    ) -> Result<CloseCallback> {
        let (number, opaque) = add(Callback::Close(Box::new(closed)));
        let (conn, register) = (self.pointer.as_ptr(), self.api.symbols.register_close);
        // SAFETY: the connection is open until it is dropped. Both functions take the number alone for their `opaque`.
        let result = unsafe { register(conn, on_close, opaque, on_free) };
        let registered = self.api.done("virConnectRegisterCloseCallback", result);
        if registered.is_err() {
            remove(number);
        }
        registered.map(|_| CloseCallback(number))
    }

    /// Takes back what [`Conn::on_close`] did.
    pub(super) fn forget_on_close(&self, CloseCallback(number): CloseCallback) {
        // SAFETY: the connection is open until it is dropped. The call fails where the function was called already, and does
        // nothing then.
        unsafe { (self.api.symbols.unregister_close)(self.pointer.as_ptr(), on_close) };
        // Drivers that never call it do not free it either.
        remove(number);
    }

    pub(super) fn lookup_by_name(&self, name: &CStr) -> Result<Dom> {
        let (conn, lookup) = (self.pointer.as_ptr(), self.api.symbols.lookup_by_name);
        // SAFETY: the connection is open until it is dropped, and `name` is a C string for as long as the call takes.
        let pointer = unsafe { lookup(conn, name.as_ptr()) };
        self.domain(pointer, "virDomainLookupByName")
    }

    pub(super) fn lookup_by_uuid(&self, uuid: Uuid) -> Result<Dom> {
        let (conn, lookup) = (self.pointer.as_ptr(), self.api.symbols.lookup_by_uuid);
        // SAFETY: the connection is open until it is dropped, and a UUID has the VIR_UUID_BUFLEN bytes that are read.
        let pointer = unsafe { lookup(conn, uuid.as_bytes().as_ptr()) };
        self.domain(pointer, "virDomainLookupByUUID")
    }

    fn domain(&self, pointer: DomainPtr, procedure: &'static str) -> Result<Dom> {
        match NonNull::new(pointer) {
            Some(pointer) => Ok(Dom {
                api: self.api,
                pointer,
            }),
            None => Err(self.api.last_error(procedure)),
        }
    }

    /// All domains, active or not.
    pub(super) fn domains(&self) -> Result<Vec<Domain>> {
        const NAME: &str = "virConnectListAllDomains";
        let mut list: *mut DomainPtr = null_mut();
        let (conn, list_all) = (self.pointer.as_ptr(), self.api.symbols.list_all_domains);
        // SAFETY: the connection is open until it is dropped; `list` is where the array's address is put.
        let count = self
            .api
            .done(NAME, unsafe { list_all(conn, &mut list, 0) })?;
        let count = usize::try_from(count).unwrap_or(0);
        let mut domains = Vec::with_capacity(count);
        for place in 0..count {
            // SAFETY: the array has `count` domains, each of which is now this one's to free.
            let domain = unsafe { *list.add(place) };
            if let Ok(domain) = self.domain(domain, NAME) {
                domains.push(domain.describe());
            }
        }
        // SAFETY: the array was allocated for the caller, and its domains have been taken out.
        unsafe { free(list.cast()) };
        Ok(domains)
    }

    /// Has libvirt call `event` with each monitor event of `domain`, or of all. Gives the number of the registration.
    pub(super) fn register_events(
        &self,
        domain: Option<&Dom>,
        event: impl Fn(RawEvent) + Send + Sync + 'static,
    ) -> Result<i32> {
        let (number, opaque) = add(Callback::Event(Box::new(event)));
        let (conn, register) = (self.pointer.as_ptr(), self.api.symbols.register_event);
        let domain = domain.map_or(null_mut(), |domain| domain.pointer.as_ptr());
        // SAFETY: connection and domain are there until they are dropped; a NULL domain means every one, a NULL name every
        // event. Both functions take the number alone for their `opaque`.
        let id = unsafe { register(conn, domain, null(), on_event, opaque, on_free, 0) };
        let registered = self
            .api
            .done("virConnectDomainQemuMonitorEventRegister", id);
        if registered.is_err() {
            remove(number);
        }
        registered
    }

    /// Ends a registration for events. libvirt then frees it: at once, or after the event it is calling it with.
    pub(super) fn deregister_events(&self, id: i32) -> Result<()> {
        let (conn, deregister) = (self.pointer.as_ptr(), self.api.symbols.deregister_event);
        // SAFETY: the connection is open until it is dropped. A wrong number is an error.
        let result = unsafe { deregister(conn, id) };
        self.api
            .done("virConnectDomainQemuMonitorEventDeregister", result)
            .map(drop)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // SAFETY: the reference is this one's own, and not used after this.
        let references_left = unsafe { (self.api.symbols.close)(self.pointer.as_ptr()) };
        let callbacks_left = callbacks::of_connections();
        debug!(target: "libvirt_qmp::libvirt_c", references_left, callbacks_left, "connection closed");
    }
}

/// That a function is to be called when a connection is lost.
pub(super) struct CloseCallback(usize);

/// A domain of libvirt. It keeps its connection open, so it must go first.
pub(super) struct Dom {
    api: &'static Api,
    pointer: NonNull<Opaque<DomainTag>>,
}

// SAFETY: libvirt's domains may be used by any number of threads at once.
unsafe impl Send for Dom {}
// SAFETY: as above.
unsafe impl Sync for Dom {}

impl Dom {
    fn describe(&self) -> Domain {
        // SAFETY: the domain is there until it is dropped.
        let EventDomain { name, uuid, id } = unsafe { self.api.describe(self.pointer.as_ptr()) };
        Domain { name, uuid, id }
    }

    /// Runs a QMP command and gives QEMU's reply, which may be an error of QEMU.
    pub(super) fn monitor_command(&self, command: &CStr) -> Result<Bytes> {
        let mut reply = null_mut();
        let (domain, run) = (self.pointer.as_ptr(), self.api.symbols.monitor_command);
        // SAFETY: the domain is there until it is dropped, `command` is a C string for as long as the call takes, and `reply`
        // is where the address of the answer is put. Flags: none, the command is QMP.
        let result = unsafe { run(domain, command.as_ptr(), &mut reply, 0) };
        self.reply("virDomainQemuMonitorCommand", result, reply)
    }

    /// As [`Dom::monitor_command`], with a descriptor that QEMU gets a copy of. `None` where this libvirt cannot.
    pub(super) fn monitor_command_with_file(
        &self,
        command: &CStr,
        file: BorrowedFd<'_>,
    ) -> Result<Option<Bytes>> {
        const NAME: &str = "virDomainQemuMonitorCommandWithFiles";
        let Some(run) = self.api.with_files else {
            return Ok(None);
        };
        let mut reply = null_mut();
        let mut file = file.as_raw_fd();
        let (files, cmd) = (&raw mut file, command.as_ptr());
        // SAFETY: as above. `files` is an array of one descriptor, open for as long as the call takes; none is asked for in
        // return, so that those pointers may be NULL.
        let result = unsafe {
            run(
                self.pointer.as_ptr(),
                cmd,
                1,
                files,
                null_mut(),
                null_mut(),
                &mut reply,
                0,
            )
        };
        self.reply(NAME, result, reply).map(Some)
    }

    fn reply(&self, procedure: &'static str, result: c_int, reply: *mut c_char) -> Result<Bytes> {
        self.api.done(procedure, result)?;
        // SAFETY: a call that succeeded gave the string away, to be freed with `free`.
        Ok(unsafe { take_text(reply) })
    }

    /// Runs a command of the guest agent.
    pub(super) fn agent_command(&self, command: &CStr, timeout: i32) -> Result<Bytes> {
        let (domain, run) = (self.pointer.as_ptr(), self.api.symbols.agent_command);
        // SAFETY: the domain is there until it is dropped, and `command` is a C string for as long as the call takes.
        let reply = unsafe { run(domain, command.as_ptr(), timeout, 0) };
        if reply.is_null() {
            return Err(self.api.last_error("virDomainQemuAgentCommand"));
        }
        // SAFETY: the string was given away, to be freed with `free`.
        Ok(unsafe { take_text(reply) })
    }
}

impl Drop for Dom {
    fn drop(&mut self) {
        // SAFETY: the reference is this one's own, and not used after this.
        unsafe { (self.api.symbols.domain_free)(self.pointer.as_ptr()) };
    }
}

/// Remembers a callback, and gives its number and the `opaque` that says it.
fn add(callback: Callback) -> (usize, *mut c_void) {
    let number = callbacks::add(callback);
    (number, without_provenance_mut(number))
}

extern "C" fn on_error(_: *mut c_void, _: *mut RawError) {}

extern "C" fn on_free(opaque: *mut c_void) {
    guarded(|| drop(remove(opaque.addr())));
}

extern "C" fn on_timeout(timer: c_int, _: *mut c_void) {
    guarded(|| {
        if let Ok(api) = Api::get() {
            // SAFETY: a timer may be removed by its own callback.
            unsafe { (api.symbols.event_remove_timeout)(timer) };
        }
    });
}

extern "C" fn on_timeout_removed(opaque: *mut c_void) {
    guarded(|| {
        if let Some(Callback::Pending(then)) = remove(opaque.addr()).as_deref() {
            then();
        }
    });
}

extern "C" fn on_close(_: ConnectPtr, reason: c_int, opaque: *mut c_void) {
    guarded(|| {
        if let Some(Callback::Close(closed)) = find(opaque.addr()).as_deref() {
            closed(reason);
        }
    });
}

/// # Safety
/// `domain` is a domain of libvirt, `name` and `details` are NULL or C strings, until this returns.
unsafe extern "C" fn on_event(
    _: ConnectPtr,
    domain: DomainPtr,
    name: *const c_char,
    seconds: c_longlong,
    micros: c_uint,
    details: *const c_char,
    opaque: *mut c_void,
) {
    guarded(|| {
        let callback = find(opaque.addr());
        let (Some(Callback::Event(event)), Ok(api)) = (callback.as_deref(), Api::get()) else {
            return;
        };
        // SAFETY: the caller's promise.
        let (domain, name, details) = unsafe {
            let details = (!details.is_null()).then(|| CStr::from_ptr(details));
            (api.describe(domain), text(name), details)
        };
        event(RawEvent {
            domain,
            name: name.unwrap_or_default(),
            seconds,
            micros,
            details: details.map(|details| Bytes::copy_from_slice(details.to_bytes())),
        });
    });
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_missing_library_is_unsupported_and_named() {
        for (core, qemu) in [
            ("libno-such-1.so.0", QEMU),
            ("libc.so.6", "libno-such-1.so.0"),
        ] {
            let error = Api::load(core, qemu).err().unwrap();
            assert!(error.is_unsupported(), "{error}");
            assert!(error.to_string().contains("libno-such-1.so.0"), "{error}");
        }
    }

    #[test]
    fn a_library_that_is_not_libvirt_is_unsupported_and_the_missing_function_named() {
        let error = Api::load("libc.so.6", "libc.so.6").err().unwrap();
        assert!(error.is_unsupported(), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("libc.so.6") && text.contains("virInitialize"),
            "{text}"
        );
    }

    #[test]
    fn a_callback_that_is_gone_or_of_another_kind_is_not_called() {
        let (number, opaque) = add(Callback::Pending(Box::new(|| panic!("called"))));
        on_close(null_mut(), 1, opaque);
        // SAFETY: it is not for this number, so the domain is not looked at.
        unsafe { on_event(null_mut(), null_mut(), null(), 0, 0, null(), opaque) };
        on_free(opaque);
        on_free(opaque);
        on_timeout_removed(opaque);
        assert!(remove(number).is_none());
    }

    #[test]
    fn a_panic_stays_on_this_side() {
        let (_, opaque) = add(Callback::Close(Box::new(|_| panic!("by the test"))));
        on_close(null_mut(), 1, opaque);
        on_free(opaque);
        assert!(find(opaque.addr()).is_none());
    }

    #[test]
    #[ignore = "needs libvirtd and QEMU: run tests/run"]
    fn a_libvirt_that_passes_no_files_is_asked_for_none() {
        Api::get().unwrap();
        let mut old = Api::load(CORE, QEMU).unwrap();
        assert!(old.with_files.is_some());
        old.with_files = None;
        let conn = Conn::open(Box::leak(Box::new(old)), c"test:///default", false).unwrap();
        let dom = conn.lookup_by_name(c"test").unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let reply = dom.monitor_command_with_file(c"{}", file.as_fd());
        assert!(reply.unwrap().is_none());
    }
}
