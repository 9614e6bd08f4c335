package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Role is what a host may do in a region.
type Role string

// The roles.
const (
	FrontEnd  Role = "frontend"
	Counting  Role = "counting"
	Manager   Role = "manager"
	Placement Role = "placement"
	Worker    Role = "worker"
	Control   Role = "control"
)

// Roles returns all roles.
func Roles() []Role { return []Role{FrontEnd, Counting, Manager, Placement, Worker, Control} }

// Identity is what a certificate says of its holder: for each role, a name of the form lambent://REGION/ZONE/ROLE/NAME.
type Identity struct {
	Region string
	Zone   string
	Name   string // unique in the region: the WorkerID of a worker, the ManagerID of a manager
	Roles  []Role // at least one, each once
}

// Has tells whether the holder has a role.
func (id Identity) Has(role Role) bool { return slices.Contains(id.Roles, role) }

// String names the holder for people.
func (id Identity) String() string {
	roles := make([]string, len(id.Roles))
	for i, role := range id.Roles {
		roles[i] = string(role)
	}
	return fmt.Sprintf("%s (%s) in zone %s of %s", id.Name, strings.Join(roles, ", "), id.Zone, id.Region)
}

const (
	scheme    = "lambent"
	maxLabel  = 63  // characters of a region's or zone's name
	maxName   = 128 // characters of a host's name
	letters   = "abcdefghijklmnopqrstuvwxyz"
	labelText = letters + "0123456789-"
	nameText  = labelText + "ABCDEFGHIJKLMNOPQRSTUVWXYZ._"
)

// Check returns what is wrong with an identity.
func (id Identity) Check() error {
	if err := checkWord("region", id.Region, labelText, maxLabel); err != nil {
		return err
	}
	if err := checkWord("zone", id.Zone, labelText, maxLabel); err != nil {
		return err
	}
	if err := checkWord("name", id.Name, nameText, maxName); err != nil {
		return err
	}
	if len(id.Roles) == 0 {
		return errors.New("pki: an identity needs a role")
	}
	for i, role := range id.Roles {
		if !slices.Contains(Roles(), role) {
			return fmt.Errorf("pki: there is no role %q", role)
		}
		if slices.Contains(id.Roles[:i], role) {
			return fmt.Errorf("pki: the role %s is named twice", role)
		}
	}
	return nil
}

func checkWord(what, word, allowed string, longest int) error {
	if word == "" || len(word) > longest || strings.Trim(word, allowed) != "" || strings.Trim(word, ".") == "" {
		return fmt.Errorf("pki: %q is no %s: it has 1 to %d of the characters %s", word, what, longest, allowed)
	}
	return nil
}

// uris are the names in the holder's certificate.
func (id Identity) uris() []*url.URL {
	var all []*url.URL
	for _, role := range id.Roles {
		all = append(all, &url.URL{Scheme: scheme, Host: id.Region, Path: "/" + id.Zone + "/" + string(role) + "/" + id.Name})
	}
	return all
}

// identityOf reads a certificate's names. Every one of them has to be Lambent's, and all of one holder.
func identityOf(cert *x509.Certificate) (Identity, error) {
	var id Identity
	for _, uri := range cert.URIs {
		one, err := parseURI(uri)
		if err != nil {
			return Identity{}, err
		}
		if id.Roles == nil {
			id = one
			continue
		}
		if one.Region != id.Region || one.Zone != id.Zone || one.Name != id.Name {
			return Identity{}, errors.New("pki: the certificate names more than one holder")
		}
		id.Roles = append(id.Roles, one.Roles...)
	}
	return id, id.Check()
}

func parseURI(uri *url.URL) (Identity, error) {
	parts := strings.Split(uri.Path, "/")
	if uri.Scheme != scheme || len(parts) != 4 || parts[0] != "" {
		return Identity{}, fmt.Errorf("pki: %q is not the name of a part of a region", uri)
	}
	id := Identity{Region: uri.Host, Zone: parts[1], Name: parts[3], Roles: []Role{Role(parts[2])}}
	if id.uris()[0].String() != uri.String() {
		return Identity{}, fmt.Errorf("pki: %q says more than the name of a part of a region", uri)
	}
	return id, id.Check()
}
