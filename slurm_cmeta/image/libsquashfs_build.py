"""Write libsquashfs_abi.py: `python -m slurm_cmeta.image.libsquashfs_build` (needs cffi).

The declarations are those of squashfs-tools-ng's public headers (include/sqfs/*.h), equal in its
releases 1.0 to 1.3, which all have the soname libsquashfs.so.1. cffi compiles them once, into a
module of plain Python, so that reading an image needs no C parser and no compiler, only cffi's
small run time (0.6 ms to import, ctypes has 1.5 ms).
"""

from __future__ import annotations

import os

MODULE = "slurm_cmeta.image.libsquashfs_abi"

DECLARATIONS = """
typedef struct sqfs_object_t {
    void (*destroy)(struct sqfs_object_t *);
    struct sqfs_object_t *(*copy)(const struct sqfs_object_t *);
} sqfs_object_t;

typedef struct sqfs_file_t {
    sqfs_object_t base;
    int (*read_at)(struct sqfs_file_t *, uint64_t offset, void *buffer, size_t size);
    int (*write_at)(struct sqfs_file_t *, uint64_t, const void *, size_t);
    uint64_t (*get_size)(const struct sqfs_file_t *);
    int (*truncate)(struct sqfs_file_t *, uint64_t);
} sqfs_file_t;

typedef struct {
    uint32_t magic;
    uint32_t inode_count;
    uint32_t modification_time;
    uint32_t block_size;
    uint32_t fragment_entry_count;
    uint16_t compression_id;
    uint16_t block_log;
    uint16_t flags;
    uint16_t id_count;
    uint16_t version_major;
    uint16_t version_minor;
    uint64_t root_inode_ref;
    uint64_t bytes_used;
    uint64_t id_table_start;
    uint64_t xattr_id_table_start;
    uint64_t inode_table_start;
    uint64_t directory_table_start;
    uint64_t fragment_table_start;
    uint64_t export_table_start;
} sqfs_super_t;

typedef struct {
    uint16_t id;
    uint16_t flags;
    uint32_t block_size;
    uint32_t level;
    uint64_t options[2];
} sqfs_compressor_config_t;

typedef struct sqfs_compressor_t {
    sqfs_object_t base;
    void (*get_configuration)(const struct sqfs_compressor_t *, sqfs_compressor_config_t *);
    int (*write_options)(struct sqfs_compressor_t *, sqfs_file_t *);
    int (*read_options)(struct sqfs_compressor_t *, sqfs_file_t *);
    int32_t (*do_block)(struct sqfs_compressor_t *, const uint8_t *in, uint32_t size,
                        uint8_t *out, uint32_t outsize);
} sqfs_compressor_t;

typedef struct {
    uint16_t type;
    uint16_t mode;
    uint16_t uid_idx;
    uint16_t gid_idx;
    uint32_t mod_time;
    uint32_t inode_number;
    uint32_t payload_bytes_available;
    uint32_t payload_bytes_used;
    union {
        struct { uint32_t nlink; uint32_t target_size; } slink;
        uint64_t largest[5];
    } data;
    uint32_t extra[];
} sqfs_inode_generic_t;

typedef struct {
    uint16_t offset;
    int16_t inode_diff;
    uint16_t type;
    uint16_t size;
    uint8_t name[];
} sqfs_dir_entry_t;

typedef struct sqfs_dir_reader_t sqfs_dir_reader_t;
typedef struct sqfs_data_reader_t sqfs_data_reader_t;

void sqfs_free(void *);
int sqfs_super_read(sqfs_super_t *, sqfs_file_t *);
int sqfs_compressor_config_init(sqfs_compressor_config_t *, int id, size_t block_size,
                                uint16_t flags);
int sqfs_compressor_create(const sqfs_compressor_config_t *, sqfs_compressor_t **);
sqfs_dir_reader_t *sqfs_dir_reader_create(const sqfs_super_t *, sqfs_compressor_t *,
                                          sqfs_file_t *, uint32_t flags);
int sqfs_dir_reader_open_dir(sqfs_dir_reader_t *, const sqfs_inode_generic_t *, uint32_t flags);
int sqfs_dir_reader_find(sqfs_dir_reader_t *, const char *name);
int sqfs_dir_reader_read(sqfs_dir_reader_t *, sqfs_dir_entry_t **);
int sqfs_dir_reader_get_inode(sqfs_dir_reader_t *, sqfs_inode_generic_t **);
int sqfs_dir_reader_get_root_inode(sqfs_dir_reader_t *, sqfs_inode_generic_t **);
int sqfs_inode_get_file_size(const sqfs_inode_generic_t *, uint64_t *);
sqfs_data_reader_t *sqfs_data_reader_create(sqfs_file_t *, size_t block_size,
                                            sqfs_compressor_t *, uint32_t flags);
int sqfs_data_reader_load_fragment_table(sqfs_data_reader_t *, const sqfs_super_t *);
int32_t sqfs_data_reader_read(sqfs_data_reader_t *, const sqfs_inode_generic_t *,
                              uint64_t offset, void *buffer, uint32_t size);

/* liblzo2: libsquashfs itself has no LZO, whose licence is the GPL. */
int lzo1x_decompress_safe(const uint8_t *in, size_t size, uint8_t *out, size_t *outsize,
                          void *unused);
"""


def main() -> None:
    """Write the module beside this one."""
    from cffi import FFI

    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    ffi.set_source(MODULE, None)
    target = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libsquashfs_abi.py")
    ffi.emit_python_code(target)


if __name__ == "__main__":
    main()
