package memory_test

import (
	"testing"

	"lambent/blob"
	"lambent/blob/blobtest"
	"lambent/blob/memory"
)

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(*testing.T) blob.Store { return &memory.Store{} })
}
