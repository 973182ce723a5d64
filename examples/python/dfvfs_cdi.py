"""A plugin for dfVFS: disk images that cdi reads, with their bad sectors as errors.

    import dfvfs_cdi
    from dfvfs.helpers import source_scanner

    context = source_scanner.SourceScannerContext()
    context.OpenSourcePath("disk.cdimg")
    source_scanner.SourceScanner().Scan(context)

Importing it registers a path specification, a resolver helper and an analyzer helper for the type indicator "CDI": the
scanner above then finds the file systems of the image, and

    path_spec_factory.Factory.NewPathSpec("CDI", parent=path_spec_of_the_image)

is its disk. The image is a file of the operating system: cdi opens it, and the files next to it, by its path. Made for dfVFS
20260924.
"""

import cdi
from dfvfs.analyzer import analyzer, analyzer_helper, specification
from dfvfs.file_io import file_object_io
from dfvfs.lib import definitions, errors
from dfvfs.path import factory, path_spec
from dfvfs.resolver_helpers import manager, resolver_helper

TYPE_INDICATOR_CDI = "CDI"


class CDIPathSpec(path_spec.PathSpec):
    """The disk of the image that is the parent."""

    TYPE_INDICATOR = TYPE_INDICATOR_CDI

    def __init__(self, parent=None, **kwargs):
        if not parent:
            raise ValueError("Missing parent value.")
        super().__init__(parent=parent, **kwargs)


class CDIFile(file_object_io.FileObjectIO):
    """The disk as a file object."""

    def _OpenFileObject(self, path_spec):
        parent = path_spec.parent
        location = getattr(parent, "location", None)
        if parent is None or parent.type_indicator != definitions.TYPE_INDICATOR_OS or not location:
            raise errors.PathSpecError("An image that cdi reads must be a file of the operating system.")
        # The disk reads up to a bad sector and no further, and raises if a read begins there, as a device does. TSK and libyal
        # count the bytes that they get. TSK reads ahead, and would lose the good sectors if such a read raised.
        return cdi.open(location)

    def get_size(self):
        if not self._is_open:
            raise OSError("Not opened.")
        return self._file_object.size


class CDIResolverHelper(resolver_helper.ResolverHelper):
    """Makes the file object of a path specification."""

    TYPE_INDICATOR = TYPE_INDICATOR_CDI

    def NewFileObject(self, resolver_context, path_spec):
        return CDIFile(resolver_context, path_spec)


class CDIAnalyzerHelper(analyzer_helper.AnalyzerHelper):
    """Recognises a .cdimg. Signatures of other formats that cdi reads, and dfVFS does not, may be added."""

    FORMAT_CATEGORIES = frozenset([definitions.FORMAT_CATEGORY_STORAGE_MEDIA_IMAGE])
    TYPE_INDICATOR = TYPE_INDICATOR_CDI

    def GetFormatSpecification(self):
        cdimg = specification.FormatSpecification(self.type_indicator)
        cdimg.AddNewSignature(b"\x89CDIMG\r\n", offset=0)
        return cdimg


factory.Factory.RegisterPathSpec(CDIPathSpec)
manager.ResolverHelperManager.RegisterHelper(CDIResolverHelper())
analyzer.Analyzer.RegisterHelper(CDIAnalyzerHelper())
