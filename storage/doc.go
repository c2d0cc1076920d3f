// Package storage reads and writes what batch jobs work on: files of directories that the operator
// allows, objects of S3-compatible storage, and signed links. The agent and the scheduler import it; what
// may be reached, and with whose credentials, its caller hands over.
//
// Decisions:
//   - file://, s3:// and obs:// URLs are taken literally: names come from listings and are written by
//     people, with spaces, "+", "%" and Chinese characters, and nobody escapes those. Links are URLs.
//   - A folder is what lies below a "/". An object store's prefix "in" would hold "in2/x" too, which
//     nobody means and no file system has.
//   - Listings go in the order of the keys' bytes, over directories as over objects, so that the last key
//     is all that a listing needs to go on after a restart. One that fails goes on by itself. Of a
//     directory 65,536 to twice as many names are held at once; a larger one is read again for each part.
//   - A file is found through os.Root, which no symbolic link leaves. It is written beside its place,
//     flushed and renamed. A crash leaves a file whose name says that it is unfinished; listings skip it.
//     One of many that wait for a common flush (WriteUnsynced) is made in its place when its name is new, for half the
//     cost: whoever must not see half of one is told of it elsewhere, as by a manifest.
//     Parts of objects that a crash leaves behind are for the bucket's life cycle rules.
//   - A body ends with io.EOF only when all of it was there: sizes are compared, a file is looked at
//     again, and a link whose server doesn't say where its content ends is refused.
//   - Time limits are for silence (Config.Idle), not for the whole: a large object may take long. A shared
//     file system that hangs is not noticed: the kernel lets nobody give up on it.
//   - Every error has one of seven kinds, one of which has a kind that lasts. Calls that fail with ErrTemporary are made again, here alone and
//     a bounded number of times: minio-go's own retries are off. Bodies aren't resumed: whoever reads one
//     knows what to do again.
//   - The query of a signed link is a secret. URL.Signed alone shows it; texts of net/http, which repeat
//     URLs, are never passed on, and redirects carry no Referer.
//   - Links may not lead to this machine or to link-local addresses: who submits a job must not reach
//     through the scheduler or an agent what listens there. The address that is dialled is checked, so
//     links don't go through a proxy. Private addresses are allowed: object storage lives there.
//
// Dependency: minio-go signs requests, pages listings and uploads in parts, for any S3-compatible store.
// gocloud.dev/blob brings the SDK of a cloud and some thirty modules for the same, its listings have no
// ETags, and its files have names that it escapes; files take little with os.Root.
package storage
