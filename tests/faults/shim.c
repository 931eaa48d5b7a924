/* Counts the file operations of a process below a folder, and makes one go wrong.
 *
 *   cc -shared -fPIC -O1 -o shim.so shim.c -ldl
 *   LD_PRELOAD=shim.so SHIM_ROOT=/out SHIM_OP=write SHIM_AT=3 SHIM_ACTION=ENOSPC program
 *
 * An audit hook sees what Python does; this also sees what C++ code of Arrow and DuckDB does.
 * SHIM_ACTION is the number of an error, `kill`, or `short`: half of the bytes are written, and the
 * next write finds no space.  SHIM_ALWAYS: operations after that one fail too, as on a full disk.
 * SHIM_ONCE: a file that marks that the fault has happened.  SHIM_LOG: operations are appended to it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, FAIL, KILL, SHORT };

static char root[PATH_MAX], once[PATH_MAX], op[32];
static size_t root_length;
static long at = -1;
static int action = NONE, code, always, log_fd = -1;
static atomic_long seen;

static void text(char *to, size_t size, const char *name) {
  const char *value = getenv(name);
  snprintf(to, size, "%s", value ? value : "");
}

__attribute__((visibility("default"))) void shim_reload(void) {
  char word[PATH_MAX];
  text(root, sizeof root, "SHIM_ROOT");
  root_length = strlen(root);
  text(once, sizeof once, "SHIM_ONCE");
  text(op, sizeof op, "SHIM_OP");
  text(word, sizeof word, "SHIM_AT");
  at = *word ? atol(word) : -1;
  text(word, sizeof word, "SHIM_ALWAYS");
  always = *word != 0;
  text(word, sizeof word, "SHIM_ACTION");
  code = atoi(word);
  action = !*word ? NONE : !strcmp(word, "kill") ? KILL : !strcmp(word, "short") ? SHORT : FAIL;
  text(word, sizeof word, "SHIM_LOG");
  if (*word) log_fd = syscall(SYS_openat, AT_FDCWD, word, O_WRONLY | O_APPEND | O_CREAT, 0666);
  atomic_store(&seen, 0);
}

__attribute__((constructor)) static void start(void) { shim_reload(); }

static int is_below(const char *path) {
  return root_length && !strncmp(path, root, root_length) &&
         (path[root_length] == '/' || path[root_length] == 0);
}

static int path_is_below(const char *path) {
  char full[PATH_MAX * 2], here[PATH_MAX];
  if (!root_length) return 0;
  if (path[0] == '/') return is_below(path);
  if (syscall(SYS_getcwd, here, sizeof here) < 0) return 0;
  snprintf(full, sizeof full, "%s/%s", here, path);
  return is_below(full);
}

static int fd_is_below(int fd) {
  char link[64], path[PATH_MAX];
  ssize_t length;
  if (!root_length) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_below(path);
}

/* What to do in place of an operation below the root. */
static int fault(const char *name) {
  int saved = errno, answer = NONE;
  if (log_fd >= 0) {
    char line[64];
    int length = snprintf(line, sizeof line, "%s\n", name);
    syscall(SYS_write, log_fd, line, length);
  }
  if (action != NONE && !strcmp(op, name)) {
    long late = atomic_fetch_add(&seen, 1) - at;
    if (late == 0 || (late > 0 && always)) {
      answer = late > 0 && action == SHORT ? FAIL : action;
      if (*once) {
        int flag = syscall(SYS_openat, AT_FDCWD, once, O_CREAT | O_EXCL | O_WRONLY, 0666);
        if (flag >= 0) syscall(SYS_close, flag);
        else if (!always) answer = NONE;
      }
      if (answer == KILL) syscall(SYS_kill, getpid(), SIGKILL);
    }
  }
  errno = saved;
  return answer;
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); \
  if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)
#define FAILING(answer) do { errno = code ? code : ENOSPC; return answer; } while (0)

#define WRITER(name, with, without) \
  ssize_t name with { \
    int what = NONE; \
    REAL(ssize_t, #name, int, const void *, size_t, off_t); \
    if (fd_is_below(fd)) what = fault("write"); \
    if (what == FAIL) FAILING(-1); \
    if (what == SHORT && n > 1) n /= 2; \
    return real without; \
  }

ssize_t write(int fd, const void *data, size_t n) {
  int what = NONE;
  REAL(ssize_t, "write", int, const void *, size_t);
  if (fd_is_below(fd)) what = fault("write");
  if (what == FAIL) FAILING(-1);
  if (what == SHORT && n > 1) n /= 2;
  return real(fd, data, n);
}
WRITER(pwrite, (int fd, const void *data, size_t n, off_t to), (fd, data, n, to))
WRITER(pwrite64, (int fd, const void *data, size_t n, off_t to), (fd, data, n, to))

ssize_t read(int fd, void *data, size_t n) {
  REAL(ssize_t, "read", int, void *, size_t);
  if (fd_is_below(fd) && fault("read") == FAIL) FAILING(-1);
  return real(fd, data, n);
}

ssize_t pread(int fd, void *data, size_t n, off_t from) {
  REAL(ssize_t, "pread", int, void *, size_t, off_t);
  if (fd_is_below(fd) && fault("read") == FAIL) FAILING(-1);
  return real(fd, data, n, from);
}

ssize_t pread64(int fd, void *data, size_t n, off_t from) {
  REAL(ssize_t, "pread64", int, void *, size_t, off_t);
  if (fd_is_below(fd) && fault("read") == FAIL) FAILING(-1);
  return real(fd, data, n, from);
}

int fsync(int fd) {
  REAL(int, "fsync", int);
  if (fd_is_below(fd) && fault("fsync") == FAIL) FAILING(-1);
  return real(fd);
}

int rename(const char *from, const char *to) {
  REAL(int, "rename", const char *, const char *);
  if (path_is_below(to) && fault("rename") == FAIL) FAILING(-1);
  return real(from, to);
}

int mkdir(const char *path, mode_t mode) {
  REAL(int, "mkdir", const char *, mode_t);
  if (path_is_below(path) && fault("mkdir") == FAIL) FAILING(-1);
  return real(path, mode);
}

#define OPENER(name) \
  int name(const char *path, int flags, ...) { \
    mode_t mode = 0; \
    REAL(int, #name, const char *, int, ...); \
    if (flags & (O_CREAT | O_TMPFILE)) { \
      va_list rest; \
      va_start(rest, flags); \
      mode = va_arg(rest, mode_t); \
      va_end(rest); \
    } \
    if (path_is_below(path)) \
      if (fault(flags & (O_WRONLY | O_RDWR | O_CREAT) ? "create" : "open") == FAIL) FAILING(-1); \
    return real(path, flags, mode); \
  }
OPENER(open)
OPENER(open64)
