package errs

import "time"

// The refusals that several packages share. Each is a function because a package keeps no mutable state.

// InvalidParameter refuses a path or query parameter and names it.
func InvalidParameter(name, want string) *Error {
	return New(Invalid, "invalid_parameter", name+": "+want)
}

// InvalidJSON refuses a body that is not one well-formed JSON value.
func InvalidJSON(detail string) *Error { return New(Invalid, "invalid_json", detail) }

// UnknownMember refuses a JSON member that the request does not have.
func UnknownMember(name string) *Error {
	return New(Invalid, "unknown_member", "the member "+name+" is not part of this request")
}

// InvalidField refuses a body whose fields break rules.
func InvalidField(findings ...Finding) *Error {
	return New(Unprocessable, "invalid_field", "the request breaks a rule; see errors").WithFindings(findings)
}

// Absent says that a record is not there or not visible to the caller.
func Absent(what string) *Error { return New(NotFound, "not_found", what+" does not exist") }

// Exists refuses to create something twice.
func Exists(what string) *Error { return New(Conflict, "already_exists", what+" already exists") }

// NotAllowed refuses a caller that is known and may see the record, but may not do this.
func NotAllowed(detail string) *Error { return New(Forbidden, "forbidden", detail) }

// NoCredentials refuses a caller whose credentials are missing or wrong.
func NoCredentials(detail string) *Error { return New(Unauthenticated, "unauthenticated", detail) }

// Away says that a dependency did not answer; what was asked may or may not have happened.
func Away(what string, cause error) *Error {
	return New(Unavailable, "unavailable", what+" is not available; try again").WithCause(cause).WithRetryAfter(2 * time.Second)
}
