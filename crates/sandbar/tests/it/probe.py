# Runs each row of rows.json in a child of its own and prints what came of it, one JSON object per row:
# the value of `r`, or the name of the error number, or the signal that ended the child.
import ctypes, errno, fcntl, json, os, select, signal, socket, stat, struct, sys, time

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long


def sc(nr, *args):
    """A raw system call. Numbers become longs, bytes become pointers."""
    made = [a if not isinstance(a, int) else ctypes.c_long(a) for a in args]
    result = LIBC.syscall(ctypes.c_long(nr), *made)
    if result == -1:
        raise OSError(ctypes.get_errno(), "")
    return result


def opened(path, flags=os.O_RDONLY):
    """Opens and writes nothing. Says what it got: a masked entry is /dev/null."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    info = os.fstat(fd)
    os.close(fd)
    if stat.S_ISCHR(info.st_mode) and info.st_rdev == os.makedev(1, 3):
        return "null device"
    return "opened"


def content(path, limit=64):
    """What can be read, up to a limit."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    data = os.read(fd, limit)
    os.close(fd)
    return data.hex() if data else "empty"


def caps(which):
    """A line of /proc/self/status."""
    for line in open("/proc/self/status"):
        if line.startswith(which + ":"):
            return line.split(None, 1)[1].strip()


def wait_child(pid):
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def one(code):
    scope = dict(globals())
    try:
        exec(code, scope)
        return str(scope.get("r", "OK"))
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e.errno))
    except BaseException as e:
        return type(e).__name__ + ": " + str(e)


def main():
    for name, code in json.load(open("rows.json")):
        read, write = os.pipe()
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            signal.alarm(20)
            text = one(code)
            os.write(write, text.encode()[:4000])
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            text = pipe.read().decode(errors="replace")
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            text = signal.Signals(os.WTERMSIG(status)).name
        print(json.dumps({"name": name, "got": text}), flush=True)


main()
