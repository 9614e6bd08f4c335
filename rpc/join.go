package rpc

import (
	"context"

	"lambent"
	"lambent/rpc/pki"
)

type joinRequest struct {
	Token   string
	Request []byte // a certificate request, in DER
}

type joinAnswer struct{ Chain []byte } // certificates, in PEM

// Join gets a host its first certificate from the control plane at an address, and writes it into a directory. The token is shown
// only to a host whose certificate is of the authority that the token names.
func Join(ctx context.Context, options PeerOptions, token, dir string) error {
	t, err := pki.ParseToken(token)
	if err != nil {
		return err
	}
	peer := newPeer(options, t.ClientConfig())
	err = pki.Join(ctx, dir, token, func(ctx context.Context, request []byte) ([]byte, error) {
		answer, err := call[joinRequest, joinAnswer](ctx, peer, "pki.join", joinRequest{token, request})
		return answer.Chain, err
	})
	if closed := peer.Close(); err == nil {
		err = closed
	}
	return err
}

func serveJoin(_ context.Context, s *Server, _ pki.Peer, req joinRequest) (joinAnswer, error) {
	authority := s.options.Authority
	if authority == nil {
		return joinAnswer{}, absent("certificate authority")
	}
	chain, err := authority.Admit(req.Token, req.Request)
	if err != nil {
		s.options.Logger.Warn("a host was not let in", "error", err)
		return joinAnswer{}, lambent.Wrap(lambent.AccessDenied, err, "The join token or the certificate request is not accepted.")
	}
	return joinAnswer{chain}, nil
}

// Sign asks the peer's authority for a new certificate of the caller; it is a pki.Signer.
func (p *Peer) Sign(ctx context.Context, request []byte) ([]byte, error) {
	answer, err := call[[]byte, joinAnswer](ctx, p, "pki.renew", request)
	return answer.Chain, err
}

func serveRenew(_ context.Context, s *Server, caller pki.Peer, request []byte) (joinAnswer, error) {
	authority := s.options.Authority
	if authority == nil {
		return joinAnswer{}, absent("certificate authority")
	}
	if s.options.Renews != nil {
		if err := s.options.Renews(caller.Identity); err != nil {
			return joinAnswer{}, lambent.Wrap(lambent.AccessDenied, err, "The certificate of %s is not renewed.", caller.Name)
		}
	}
	chain, err := authority.Sign(request, caller.Identity, 0)
	if err != nil {
		return joinAnswer{}, lambent.Wrap(lambent.InvalidParameter, err, "The certificate request is not accepted.")
	}
	return joinAnswer{chain}, nil
}
