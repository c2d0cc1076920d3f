package place

import (
	"hash/fnv"
	"math/bits"
	"slices"
)

// imaged are the places of a shape that have an image.
type imaged struct {
	places *bitset
	number int // among those of the shape
}

// maxImages is how many of them a shape remembers.
const maxImages = 64

// imageBit is the number of a bit for an image, which it may share with others.
func imageBit(digest string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(digest))
	return h.Sum32() & 31
}

// haveImages keeps what the index knows of images in step with the node, which had other images before.
func (x *Index) haveImages(n *node, before []string) {
	if slices.Equal(before, n.images) {
		return
	}
	for _, i := range before {
		if delete(x.images[i], n); len(x.images[i]) == 0 {
			delete(x.images, i)
		}
	}
	n.imageBits = 0
	for _, i := range n.images {
		if x.images[i] == nil {
			x.images[i] = map[*node]bool{}
		}
		x.images[i][n] = true
		n.imageBits |= 1 << imageBit(i)
	}
	if !x.moved {
		x.imageBits[n.slot] = n.imageBits
	}
}

// image answers the places that have the image; nil when there is none.
func (s *shape) image(x *Index, digest string) *imaged {
	if digest == "" {
		return nil
	}
	if known := s.images[digest]; known != nil {
		return known
	}
	have := x.images[digest]
	if len(have) == 0 {
		return nil
	}
	if len(s.images) >= maxImages {
		s.forgetImages()
	}
	i := &imaged{newBitset(len(s.places)), len(s.images)}
	s.withBit[imageBit(digest)] |= 1 << i.number
	for n := range have {
		if at := s.at(n); at >= 0 {
			i.places.add(at)
		}
	}
	s.images[digest] = i
	return i
}

func (s *shape) forgetImages() {
	s.images, s.withBit = map[string]*imaged{}, [32]uint64{}
	for _, b := range s.buckets {
		if b != nil {
			b.hinted = 0
		}
	}
}

// reimage notes which images the node at a place has now.
func (s *shape) reimage(x *Index, at int, n *node) {
	for digest, i := range s.images {
		i.places.put(at, x.images[digest][n])
	}
	if k := s.keys[at]; k != noKey {
		s.hint(s.buckets[k], at, n.imageBits)
	}
}

// having is what the bucket has in common with the image, without the members of not. The bucket's hint for the
// image tells where that can be: in no other words than those of its summary. Nodes with an image that is asked
// for often are the first to be taken, so that most words have none.
func (b *bucket) having(i *imaged, not *bitset) meet {
	for len(b.hints) <= i.number {
		b.hints = append(b.hints, bitset{})
	}
	h := &b.hints[i.number]
	if b.hinted>>i.number&1 == 0 {
		b.hinted |= 1 << i.number
		*h = bitset{i.places.words, slices.Clone(b.nodes.summary)}
	}
	m := common(&b.nodes, h, nil, not)
	m.learn = true
	return m
}

// hint keeps the bucket's hints true when a place comes whose node has images with these bits.
func (s *shape) hint(b *bucket, at int, images uint32) {
	for ; images != 0; images &= images - 1 {
		for those := s.withBit[bits.TrailingZeros32(images)] & b.hinted; those != 0; those &= those - 1 {
			b.hints[bits.TrailingZeros64(those)].summary[at>>12] |= 1 << (at >> 6 & 63)
		}
	}
}
