package auth

import (
	"fmt"
	"slices"
	"strings"
)

// Role is what a staff member is in general (the account's role) or in one study (a grant).
type Role string

// The roles. Administrator and Service only make sense as the role of an account, the others also as grants.
const (
	Administrator Role = "administrator" // may do everything everywhere
	StudyManager  Role = "studyManager"  // designs and runs studies
	DataManager   Role = "dataManager"   // looks after the data
	Investigator  Role = "investigator"  // physician responsible at a site
	Coordinator   Role = "coordinator"   // enrols and accompanies participants at a site
	Monitor       Role = "monitor"       // reads only
	Service       Role = "service"       // another program
)

// Roles lists every role in the order of the table.
func Roles() []Role {
	return []Role{Administrator, StudyManager, DataManager, Investigator, Coordinator, Monitor, Service}
}

// ParseRole returns the role of that name, or an error that lists the names.
func ParseRole(name string) (Role, error) {
	if slices.Contains(Roles(), Role(name)) {
		return Role(name), nil
	}
	names := make([]string, 0, len(Roles()))
	for _, r := range Roles() {
		names = append(names, string(r))
	}
	return "", fmt.Errorf("%q is not a role; the roles are %s", name, strings.Join(names, ", "))
}

// Granted reports whether the role can be granted for one study.
func (r Role) Granted() bool {
	return r != Administrator && r != Service && slices.Contains(Roles(), r)
}

// Action is one thing that a right covers.
type Action string

// The actions. Those marked global are asked with Guard.Global, the others within a study.
const (
	AccountManage Action = "account.manage" // global: staff accounts
	IDIssue       Action = "id.issue"       // global: Snowflake ids
	StudyCreate   Action = "study.create"   // global

	StudyRead    Action = "study.read"    // the study, its sites, arms, questionnaires and schedule; a right at one site is enough
	StudyDesign  Action = "study.design"  // change them
	StudyPublish Action = "study.publish" // make the study active
	StudyStaff   Action = "study.staff"   // read and grant rights
	StudyLock    Action = "study.lock"    // lock the study's data, ask for an unlock and agree to one
	StudyArchive Action = "study.archive" // move a locked study into the archive, and back

	ParticipantEnrol  Action = "participant.enrol"
	ParticipantRead   Action = "participant.read"
	ParticipantUpdate Action = "participant.update"
	// ParticipantContact is to see and change how a participant can be reached. It is the site's own: who runs the study or
	// looks after its data knows participants by their numbers only.
	ParticipantContact Action = "participant.contact"
	TaskRead           Action = "task.read"
	TaskExcuse         Action = "task.excuse"
	ResponseRead       Action = "response.read"
	AlertRead          Action = "alert.read"
	AlertHandle        Action = "alert.handle" // acknowledge and resolve
	QuarantineRead     Action = "quarantine.read"
	QuarantineRedrive  Action = "quarantine.redrive"
	AuditRead          Action = "audit.read"
)

// Actions lists every action in the order of the table.
func Actions() []Action {
	return []Action{
		AccountManage, IDIssue, StudyCreate,
		StudyRead, StudyDesign, StudyPublish, StudyStaff, StudyLock, StudyArchive,
		ParticipantEnrol, ParticipantRead, ParticipantUpdate, ParticipantContact,
		TaskRead, TaskExcuse, ResponseRead, AlertRead, AlertHandle, QuarantineRead, QuarantineRedrive, AuditRead,
	}
}

// rights is the permission table. Administrator is not in it: it may do everything. A participant is not either: it reaches
// only its own records, through routes that take the identity from the token.
var rights = map[Role][]Action{
	StudyManager: {
		StudyCreate, StudyRead, StudyDesign, StudyPublish, StudyStaff, StudyLock, StudyArchive, ParticipantEnrol, ParticipantRead, ParticipantUpdate,
		TaskRead, TaskExcuse, ResponseRead, AlertRead, AlertHandle, QuarantineRead, QuarantineRedrive, AuditRead,
	},
	DataManager:  {StudyRead, StudyLock, ParticipantRead, TaskRead, ResponseRead, AlertRead, QuarantineRead, QuarantineRedrive, AuditRead},
	Investigator: {StudyRead, ParticipantEnrol, ParticipantRead, ParticipantUpdate, ParticipantContact, TaskRead, TaskExcuse, ResponseRead, AlertRead, AlertHandle, QuarantineRead},
	Coordinator:  {StudyRead, ParticipantEnrol, ParticipantRead, ParticipantUpdate, ParticipantContact, TaskRead, TaskExcuse, ResponseRead, AlertRead, AlertHandle},
	Monitor:      {StudyRead, ParticipantRead, TaskRead, ResponseRead, AlertRead, QuarantineRead, AuditRead},
	Service:      {IDIssue},
}

// May reports whether the role's row of the table holds the action.
func (r Role) May(a Action) bool {
	return r == Administrator || slices.Contains(rights[r], a)
}
