package state

import (
	"sync"
	"sync/atomic"
)

// Store is the one picture of the cluster. Apply and Restore are called by one goroutine at a time (the
// FSM); everything else by anyone. View and Subscribe never wait for Apply.
type Store struct {
	writing sync.Mutex
	alike   alike  // guarded by writing
	writers uint64 // likewise: how often tables were copied to be changed
	current atomic.Pointer[tables]
	feeds   feeds
}

// New makes an empty store.
func New() *Store {
	s := &Store{}
	s.current.Store(newTables())
	return s
}

// View is the picture at the last applied command. It stays as it is while later commands are applied.
func (s *Store) View() ReadView { return s.view() }

func (s *Store) view() view { return view{s.current.Load()} }

// Subscribe starts a feed; its owner closes it. A change set that Next answers is in every View taken
// afterwards.
func (s *Store) Subscribe() Feed { return s.feeds.subscribe() }
