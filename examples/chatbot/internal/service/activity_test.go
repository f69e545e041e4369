package service_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osse101/usercache"
	"github.com/osse101/usercache/examples/chatbot/internal/service"
)

// touched records batches.
type touched struct {
	batches [][]usercache.Account
	at      []time.Time
	err     error
}

func (r *touched) TouchActivity(_ context.Context, at time.Time, accounts ...usercache.Account) error {
	slices.SortFunc(accounts, func(a, b usercache.Account) int { return strings.Compare(a.ID, b.ID) })
	r.batches = append(r.batches, accounts)
	r.at = append(r.at, at)
	return r.err
}

// Accounts are recorded in batches, each once, and at the end what is left.
func TestActivityBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &touched{}
		a := service.NewActivity(to, time.Minute, discard)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.Run(ctx)
		}()
		a.Seen("twitch", "1")
		a.Seen("twitch", "2")
		a.Seen("twitch", "1")
		began := time.Now()
		<-time.After(time.Minute + time.Second)
		synctest.Wait()
		if len(to.batches) != 1 || len(to.batches[0]) != 2 || to.batches[0][0] != (usercache.Account{Platform: "twitch", ID: "1"}) {
			t.Errorf("batches %v", to.batches)
		}
		if to.at[0].Sub(began) != time.Minute {
			t.Errorf("recorded after %v", to.at[0].Sub(began))
		}
		<-time.After(5 * time.Minute)
		synctest.Wait()
		if len(to.batches) != 1 {
			t.Errorf("an empty batch is recorded: %v", to.batches)
		}
		a.Seen("discord", "3")
		stop()
		<-done
		if err := a.Record(t.Context()); err != nil {
			t.Error(err)
		}
		if len(to.batches) != 2 || len(to.batches[1]) != 1 {
			t.Errorf("at the end: %v", to.batches)
		}
	})
}

func TestActivityIsBounded(t *testing.T) {
	to := &touched{}
	a := service.NewActivity(to, time.Minute, discard)
	for i := range 100_001 {
		a.Seen("twitch", strconv.Itoa(i))
	}
	if err := a.Record(t.Context()); err != nil || len(to.batches[0]) != 100_000 {
		t.Errorf("%d accounts, %v", len(to.batches[0]), err)
	}
}

// A batch that fails is logged, without the error's text, and recording goes
// on.
func TestActivityFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &touched{err: errors.New("row of alice")}
		var log bytes.Buffer
		a := service.NewActivity(to, time.Minute, slog.New(slog.NewTextHandler(&log, nil)))
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go a.Run(ctx)
		for range 2 {
			a.Seen("twitch", "1")
			<-time.After(time.Minute)
			synctest.Wait()
		}
		if len(to.batches) != 2 || strings.Count(log.String(), "activity is not recorded") != 2 || strings.Contains(log.String(), "alice") {
			t.Errorf("%d batches, log %s", len(to.batches), &log)
		}
		stop()
		synctest.Wait()
	})
}
