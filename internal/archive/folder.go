package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Destination keeps the files of archives. Paths are relative, with slashes. Folder is the one that is here; an object store fits
// behind the same promises: an upload that ends with Commit, and a name that is there whole or not at all.
type Destination interface {
	// Create begins a file. Nobody sees it before Commit.
	Create(ctx context.Context, path string) (Upload, error)
	// Open opens a file that was committed; an error that errors.Is(err, fs.ErrNotExist) recognises where there is none.
	Open(ctx context.Context, path string) (File, error)
	// Remove removes a file; one that is not there is no error.
	Remove(ctx context.Context, path string) error
	// Place says where a path is, for people.
	Place(path string) string
}

// Upload is a file that is being written.
type Upload interface {
	io.Writer
	// Commit makes the file durable under its name, in place of an earlier one.
	Commit() error
	// Abort gives it up; after Commit it does nothing.
	Abort()
}

// File is a committed file.
type File interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Folder keeps files in a folder of the file system. A file is written beside its place under a temporary name, flushed, renamed,
// and its folder flushed: after a power cut it is there whole or not at all.
type Folder struct{ root string }

// NewFolder returns the folder, which is made if it is missing.
func NewFolder(root string) (*Folder, error) {
	abs, err := filepath.Abs(root)
	if err == nil {
		err = os.MkdirAll(abs, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("archive.dir: %w", err)
	}
	return &Folder{root: abs}, nil
}

const temporary = ".writing"

func (f *Folder) path(path string) (string, error) {
	if !filepath.IsLocal(path) || strings.HasSuffix(path, temporary) {
		return "", errors.New("archive: a path that leaves the folder")
	}
	return filepath.Join(f.root, filepath.FromSlash(path)), nil
}

// Place implements Destination.
func (f *Folder) Place(path string) string { return filepath.Join(f.root, filepath.FromSlash(path)) }

// Create implements Destination.
func (f *Folder) Create(_ context.Context, path string) (Upload, error) {
	full, err := f.path(path)
	if err != nil {
		return nil, err
	}
	if err := f.folders(filepath.Dir(full)); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	file, err := os.OpenFile(full+temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	return &upload{file: file, path: full}, nil
}

// folders makes a folder and those above it, and flushes each one that got a new entry.
func (f *Folder) folders(dir string) error {
	if dir == f.root || len(dir) < len(f.root) {
		return nil
	}
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := f.folders(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return flush(filepath.Dir(dir))
}

// flush makes the entries of a folder durable.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type upload struct {
	file *os.File
	path string
	done bool
}

// Write implements io.Writer.
func (u *upload) Write(b []byte) (int, error) { return u.file.Write(b) }

// Commit implements Upload.
func (u *upload) Commit() error {
	err := errors.Join(u.file.Sync(), u.file.Close())
	u.done = true
	if err == nil {
		err = os.Rename(u.path+temporary, u.path)
	}
	if err == nil {
		err = flush(filepath.Dir(u.path))
	}
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

// Abort implements Upload.
func (u *upload) Abort() {
	if u.done {
		return
	}
	u.done = true
	_ = u.file.Close()
	_ = os.Remove(u.path + temporary)
}

type openFile struct {
	*os.File
	size int64
}

// Size implements File.
func (o *openFile) Size() int64 { return o.size }

// Open implements Destination.
func (f *Folder) Open(_ context.Context, path string) (File, error) {
	full, err := f.path(path)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(full)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("archive: %w", err), file.Close())
	}
	return &openFile{file, info.Size()}, nil
}

// Remove implements Destination.
func (f *Folder) Remove(_ context.Context, path string) error {
	full, err := f.path(path)
	if err != nil {
		return err
	}
	_ = os.Remove(full + temporary) // of a try that was killed
	if err := os.Remove(full); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}
